"""CBAM-MobileNet of 0.7 times the width on ImageNet-1K, otherwise as in imagenet_resnet50.

    python -m train imagenet_cbam_mobilenet_0_7 --workdir runs/imagenet_cbam_mobilenet_0_7

The CBAM paper trained this net without releasing its code; the recipe is that of the released ResNets.
Time: 500,456 steps of 256 images; not measured, docs/results/aot_table.md bounds the images per second.
Result, top-1 / top-5 error in % of one 224 crop: 31.51 / 11.48 (CBAM paper; recalled, not read at its source).
"""

import dataclasses

from configs.imagenet.imagenet_resnet50 import config as base

config = dataclasses.replace(base, model=dataclasses.replace(base.model, name="cbam_mobilenet_0_7"))
