"""EPSANet-50 (large) on ImageNet-1K, otherwise as in imagenet_epsanet50_small.

    python -m train imagenet_epsanet50_large --workdir runs/imagenet_epsanet50_large

The code of the large nets was not released; this one has the published size.
Time: 600,548 steps of 256 images; not measured, docs/results/aot_table.md bounds the images per second.
Result, top-1 / top-5 error in % of one 224 crop: 21.36 / 5.82 (README of murufeng/EPSANet, read).
"""

import dataclasses

from configs.imagenet.imagenet_epsanet50_small import config as base

config = dataclasses.replace(base, model=dataclasses.replace(base.model, name="epsanet50_large"))
