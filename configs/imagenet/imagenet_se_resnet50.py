"""SE-ResNet-50 on ImageNet-1K, by the recipe of its released weights; the base of the official SE nets.

    python -m train imagenet_se_resnet50 --workdir runs/imagenet_se_resnet50

As imagenet_resnet50, with the additions of the README of hujie-frank/SENet: rotations by up to 10 degrees, and pixel
jitter by up to 20 of 255, for which this config scales brightness, contrast and saturation by up to 8 %. The authors
lowered the learning rate by hand at plateaus of the validation loss; here it drops after 30, 60 and 90 epochs. They did
not decay the biases of batch norm (issue 8 there, read); here all parameters decay. Their paper has batches of 1024 and
a learning rate of 0.6.

Time: 500,456 steps of 256 images; not measured, docs/results/aot_table.md bounds the images per second.
Result, top-1 / top-5 error in % of one 224 crop: 22.37 / 6.36 (README of hujie-frank/SENet, read, with more epochs);
23.29 / 6.62 (SE paper; recalled, not read at its source); 23.14 / 6.70 (CBAM paper, the stride in the 3x3; recalled,
not read at its source); 22.82 / 6.33 (README of implus/PytorchInsight, read, 100 epochs, the stride in the 3x3).
"""

import dataclasses

from configs.imagenet.imagenet_resnet50 import config as base

config = dataclasses.replace(
    base,
    model=dataclasses.replace(base.model, name="se_resnet50"),
    data=dataclasses.replace(base.data, rotate=10.0, color_jitter=0.08),
)
