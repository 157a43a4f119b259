"""SENet-154 on ImageNet-1K, otherwise as in imagenet_se_resnet50.

    python -m train imagenet_senet154 --workdir runs/imagenet_senet154

Time: 500,456 steps of 256 images; not measured, docs/results/aot_table.md bounds the images per second.
Result, top-1 / top-5 error in % of one 224 crop: 18.68 / 4.47 (README of hujie-frank/SENet, read, with more epochs);
17.28 / 3.79 of one 320 crop (SE paper; recalled, not read at its source).
"""

import dataclasses

from configs.imagenet.imagenet_se_resnet50 import config as base

config = dataclasses.replace(base, model=dataclasses.replace(base.model, name="senet154"))
