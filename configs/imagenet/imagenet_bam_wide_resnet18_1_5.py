"""BAM on ResNet-18 of 1.5 times the width on ImageNet-1K, otherwise as in imagenet_bam_resnet50.

    python -m train imagenet_bam_wide_resnet18_1_5 --workdir runs/imagenet_bam_wide_resnet18_1_5

Time: 450,411 steps of 256 images; not measured, docs/results/aot_table.md bounds the images per second.
Result, top-1 / top-5 error in % of one 224 crop: 26.67 / 8.69 (BAM paper; recalled, not read at its source).
"""

import dataclasses

from configs.imagenet.imagenet_bam_resnet50 import config as base

config = dataclasses.replace(base, model=dataclasses.replace(base.model, name="bam_wide_resnet18_1_5"))
