"""BAM-ResNeXt-101 (32x4d) on ImageNet-1K, otherwise as in imagenet_bam_resnet50.

    python -m train imagenet_bam_resnext101_32x4d --workdir runs/imagenet_bam_resnext101_32x4d

Time: 450,411 steps of 256 images; not measured, docs/results/aot_table.md bounds the images per second.
Result, top-1 error in % of one 224 crop: 20.67 (README of implus/SKNet, read).
"""

import dataclasses

from configs.imagenet.imagenet_bam_resnet50 import config as base

config = dataclasses.replace(base, model=dataclasses.replace(base.model, name="bam_resnext101_32x4d"))
