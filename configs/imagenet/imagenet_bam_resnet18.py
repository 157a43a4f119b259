"""BAM-ResNet-18 on ImageNet-1K, otherwise as in imagenet_bam_resnet50.

    python -m train imagenet_bam_resnet18 --workdir runs/imagenet_bam_resnet18

Time: 450,411 steps of 256 images; not measured, docs/results/aot_table.md bounds the images per second.
Result, top-1 / top-5 error in % of one 224 crop: 28.88 / 10.10 (BAM paper; recalled, not read at its source).
"""

import dataclasses

from configs.imagenet.imagenet_bam_resnet50 import config as base

config = dataclasses.replace(base, model=dataclasses.replace(base.model, name="bam_resnet18"))
