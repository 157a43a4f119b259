"""AttentionNeXt-56 on ImageNet-1K, otherwise as in imagenet_attention56.

    python -m train imagenet_attentionnext56 --workdir runs/imagenet_attentionnext56

Time: 530,000 steps of 256 images; not measured, docs/results/aot_table.md bounds the images per second.
Result, top-1 / top-5 error in % of one 224 crop: 21.20 / 5.60 (README of fwang91/residual-attention-network, read).
"""

import dataclasses

from configs.imagenet.imagenet_attention56 import config as base

config = dataclasses.replace(base, model=dataclasses.replace(base.model, name="attentionnext56"))
