"""AttentionInception-56 on ImageNet-1K at 299 pixels, otherwise as in imagenet_attention56.

    python -m train imagenet_attentioninception56 --workdir runs/imagenet_attentioninception56

The paper does not specify the units: this net has Inception-ResNet-A. 342 pixels before the test crop keep the ratio of
the 224 nets.
Time: 530,000 steps of 256 images; not measured, docs/results/aot_table.md bounds the images per second.
Result, top-1 / top-5 error in % of one 299 crop: 20.36 / 5.29 (RAN paper; recalled, not read at its source).
"""

import dataclasses

from configs.imagenet.imagenet_attention56 import config as base

config = dataclasses.replace(
    base,
    model=dataclasses.replace(base.model, name="attentioninception56"),
    data=dataclasses.replace(base.data, image_size=299, resize=342),
)
