"""SE on ResNet-18 of twice the width on ImageNet-1K, otherwise as in imagenet_resnet50.

    python -m train imagenet_se_wide_resnet18_2_0 --workdir runs/imagenet_se_wide_resnet18_2_0

The CBAM paper trained this net without releasing its code; the recipe is that of the released ResNets.
Time: 500,456 steps of 256 images; not measured, docs/results/aot_table.md bounds the images per second.
Result, top-1 / top-5 error in % of one 224 crop: 24.93 / 7.65 (CBAM paper; recalled, not read at its source).
"""

import dataclasses

from configs.imagenet.imagenet_resnet50 import config as base

config = dataclasses.replace(base, model=dataclasses.replace(base.model, name="se_wide_resnet18_2_0"))
