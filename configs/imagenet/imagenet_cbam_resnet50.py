"""CBAM-ResNet-50 on ImageNet-1K, otherwise as in imagenet_resnet50.

    python -m train imagenet_cbam_resnet50 --workdir runs/imagenet_cbam_resnet50

Time: 500,456 steps of 256 images; not measured, docs/results/aot_table.md bounds the images per second.
Result, top-1 / top-5 error in % of one 224 crop: 22.38 / 6.05 (README of Jongchan/attention-module, read); 22.66 /
6.31 (CBAM paper; recalled, not read at its source); 22.37 / 6.34 (README of implus/PytorchInsight, read).
"""

import dataclasses

from configs.imagenet.imagenet_resnet50 import config as base

config = dataclasses.replace(base, model=dataclasses.replace(base.model, name="cbam_resnet50"))
