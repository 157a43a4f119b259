"""A small ResNet on cluttered canvases, otherwise as canvas_cbam.

    python -m train configs/canvas_se.py --workdir runs/canvas_se

Time: TODO 0
Result: TODO
"""

import dataclasses

from configs.canvas_cbam import config as base

config = dataclasses.replace(base, model=dataclasses.replace(base.model, name="se_resnet20_cifar"))
