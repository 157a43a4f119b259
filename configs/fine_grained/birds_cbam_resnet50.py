"""CBAM-ResNet-50 on CUB-200-2011, otherwise as in birds_resnet50.

    python -m attnjax.convert CHECKPOINT --model cbam_resnet50 --out cbam_resnet50.safetensors
    python -m train birds_cbam_resnet50 --workdir runs/birds_cbam_resnet50

CHECKPOINT is linked in the README of Jongchan/attention-module: the ImageNet net, with a block in each residual branch.
The script of this result was not released; its net may differ.

Time: 18,732 steps of 32 images, 599,424 in all; not measured.
Result, error in %: 13.01 (README history of PRIS-CV/CAM-Guided-Attention, read; before the paper).
"""

import dataclasses

from configs.fine_grained.birds_resnet50 import config as base

config = dataclasses.replace(
    base, model=dataclasses.replace(base.model, name="cbam_resnet50", weights="cbam_resnet50.safetensors")
)
