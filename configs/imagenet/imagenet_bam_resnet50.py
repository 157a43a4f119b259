"""BAM-ResNet-50 on ImageNet-1K, by the recipe of its released weights; the base of the other BAM nets.

    python -m train imagenet_bam_resnet50 --workdir runs/imagenet_bam_resnet50

As imagenet_resnet50, with 90 epochs.

Time: 450,411 steps of 256 images; not measured, docs/results/aot_table.md bounds the images per second.
Result, top-1 / top-5 error in % of one 224 crop: 23.14 / 6.58 (README of Jongchan/attention-module, read); 24.02 /
7.18 (BAM paper; recalled, not read at its source); 23.10 / 6.60 (README of implus/PytorchInsight, read).
"""

import dataclasses

from configs.imagenet.imagenet_resnet50 import config as base
from train.config import ScheduleConfig

config = dataclasses.replace(
    base,
    model=dataclasses.replace(base.model, name="bam_resnet50"),
    schedule=ScheduleConfig(kind="step", milestones=(30 / 90, 60 / 90)),
    total_epochs=90,
)
