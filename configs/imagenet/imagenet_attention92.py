"""Attention-92 on ImageNet-1K, otherwise as in imagenet_attention56.

    python -m train imagenet_attention92 --workdir runs/imagenet_attention92

Time: 530,000 steps of 256 images; not measured, docs/results/aot_table.md bounds the images per second.
Result, top-1 / top-5 error in % of one 320 crop: 19.50 / 4.80 (README of fwang91/residual-attention-network, read);
`python -m train.evaluate --workdir runs/imagenet_attention92 --sizes 320` measures it.
"""

import dataclasses

from configs.imagenet.imagenet_attention56 import config as base

config = dataclasses.replace(base, model=dataclasses.replace(base.model, name="attention92"))
