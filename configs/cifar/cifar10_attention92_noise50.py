"""Attention-92 on CIFAR-10 with 50 % wrong training labels, otherwise as in cifar10_attention92.

    python -m train cifar10_attention92_noise50 --workdir runs/cifar10_attention92_noise50

Time: 160,000 steps of 64 images, 10,240,000 in all; not measured.
Result, error in % on the clean test images: 7.27 (RAN paper; recalled, not read at its source).
"""

import dataclasses

from configs.cifar.cifar10_attention92 import config as base

config = dataclasses.replace(base, data=dataclasses.replace(base.data, label_noise=0.5))
