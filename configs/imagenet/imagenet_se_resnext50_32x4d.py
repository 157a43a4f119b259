"""SE-ResNeXt-50 (32x4d) on ImageNet-1K, otherwise as in imagenet_se_resnet50.

    python -m train imagenet_se_resnext50_32x4d --workdir runs/imagenet_se_resnext50_32x4d

Time: 500,456 steps of 256 images; not measured, docs/results/aot_table.md bounds the images per second.
Result, top-1 / top-5 error in % of one 224 crop: 20.97 / 5.54 (README of hujie-frank/SENet, read, with more epochs);
21.10 / 5.49 (SE paper; recalled, not read at its source); 21.91 / 6.04 (CBAM paper; recalled, not read at its source).
"""

import dataclasses

from configs.imagenet.imagenet_se_resnet50 import config as base

config = dataclasses.replace(base, model=dataclasses.replace(base.model, name="se_resnext50_32x4d"))
