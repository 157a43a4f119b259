"""CBAM-ResNeXt-50 (32x4d) on ImageNet-1K, otherwise as in imagenet_resnet50.

    python -m train imagenet_cbam_resnext50_32x4d --workdir runs/imagenet_cbam_resnext50_32x4d

The code of this net was not released; the recipe is that of the released ResNets.
Time: 500,456 steps of 256 images; not measured, docs/results/aot_table.md bounds the images per second.
Result, top-1 / top-5 error in % of one 224 crop: 21.92 / 5.91 (CBAM paper; recalled, not read at its source); 21.40
top-1 (README of implus/SKNet, read).
"""

import dataclasses

from configs.imagenet.imagenet_resnet50 import config as base

config = dataclasses.replace(base, model=dataclasses.replace(base.model, name="cbam_resnext50_32x4d"))
