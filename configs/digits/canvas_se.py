"""A small ResNet on cluttered canvases, otherwise as in canvas_cbam.

    python -m train canvas_se --workdir runs/canvas_se

Time: 539 steps of 64 images take about 29 s of CPU time on two cores of an AMD EPYC (2026-11-21).
Result, test accuracy: 80.60 +- 1.92 % over seeds 0 to 4, 81.81 % with seed 0.
"""

import dataclasses

from configs.digits.canvas_cbam import config as base

config = dataclasses.replace(base, model=dataclasses.replace(base.model, name="se_resnet20_cifar"))
