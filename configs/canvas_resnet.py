"""A small ResNet on cluttered canvases, otherwise as canvas_cbam.

    python -m train configs/canvas_resnet.py --workdir runs/canvas_resnet

Time: TODO 0
Result: TODO
"""

import dataclasses

from configs.canvas_cbam import config as base

config = dataclasses.replace(base, model=dataclasses.replace(base.model, name="resnet20_cifar"))
