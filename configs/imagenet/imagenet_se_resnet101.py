"""SE-ResNet-101 on ImageNet-1K, otherwise as in imagenet_se_resnet50.

    python -m train imagenet_se_resnet101 --workdir runs/imagenet_se_resnet101

Time: 500,456 steps of 256 images; not measured, docs/results/aot_table.md bounds the images per second.
Result, top-1 / top-5 error in % of one 224 crop: 21.75 / 5.72 (README of hujie-frank/SENet, read, with more epochs);
22.38 / 6.07 (SE paper; recalled, not read at its source); 22.35 / 6.19 (CBAM paper; recalled, not read at its source);
21.53 / 5.90 (README of implus/PytorchInsight, read).
"""

import dataclasses

from configs.imagenet.imagenet_se_resnet50 import config as base

config = dataclasses.replace(base, model=dataclasses.replace(base.model, name="se_resnet101"))
