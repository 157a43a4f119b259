"""AttentionNeXt-92 on ImageNet-1K, otherwise as in imagenet_attention56.

    python -m train imagenet_attentionnext92 --workdir runs/imagenet_attentionnext92

Time: 530,000 steps of 256 images; not measured, docs/results/aot_table.md bounds the images per second.
Result: none found in the literature.
"""

import dataclasses

from configs.imagenet.imagenet_attention56 import config as base

config = dataclasses.replace(base, model=dataclasses.replace(base.model, name="attentionnext92"))
