"""SE-ResNeXt-101 (32x4d) on ImageNet-1K, otherwise as in imagenet_se_resnet50.

    python -m train imagenet_se_resnext101_32x4d --workdir runs/imagenet_se_resnext101_32x4d

Time: 500,456 steps of 256 images; not measured, docs/results/aot_table.md bounds the images per second.
Result, top-1 / top-5 error in % of one 224 crop: 19.81 / 4.96 (README of hujie-frank/SENet, read, with more epochs);
20.70 / 5.01 (SE paper; recalled, not read at its source); 21.17 / 5.66 (CBAM paper; recalled, not read at its source).
"""

import dataclasses

from configs.imagenet.imagenet_se_resnet50 import config as base

config = dataclasses.replace(base, model=dataclasses.replace(base.model, name="se_resnext101_32x4d"))
