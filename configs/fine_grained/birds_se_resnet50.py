"""SE-ResNet-50 on CUB-200-2011, otherwise as in birds_resnet50.

    python -m attnjax.convert se_resnet50-ce0d4300.pth --model se_resnet50 --out se_resnet50.safetensors
    python -m train birds_se_resnet50 --workdir runs/birds_se_resnet50

This is the ImageNet net, with a block in each residual branch and its released weights. The script of this result has
a single block, on the last feature map.

Time: 18,732 steps of 32 images, 599,424 in all; not measured.
Result, error in %: 13.22 (README history of PRIS-CV/CAM-Guided-Attention, read; before the paper).
"""

import dataclasses

from configs.fine_grained.birds_resnet50 import config as base

config = dataclasses.replace(
    base, model=dataclasses.replace(base.model, name="se_resnet50", weights="se_resnet50.safetensors")
)
