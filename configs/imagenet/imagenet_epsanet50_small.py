"""EPSANet-50 (small) on ImageNet-1K, by the recipe of its code; the base of the other EPSANets.

    python -m train imagenet_epsanet50_small --workdir runs/imagenet_epsanet50_small

As imagenet_resnet50, with 120 epochs and label smoothing 0.1.

Time: 600,548 steps of 256 images; not measured, docs/results/aot_table.md bounds the images per second.
Result, top-1 / top-5 error in % of one 224 crop: 22.51 / 6.46 (README of murufeng/EPSANet, read).
"""

import dataclasses

from configs.imagenet.imagenet_resnet50 import config as base
from train.config import ScheduleConfig

config = dataclasses.replace(
    base,
    model=dataclasses.replace(base.model, name="epsanet50_small"),
    schedule=ScheduleConfig(kind="step", milestones=(0.25, 0.5, 0.75)),
    total_epochs=120,
    label_smoothing=0.1,
)
