"""ResNet-164 (pre-activation) on CIFAR-10 with 70 % wrong training labels, otherwise as in cifar10_preact_resnet164.

    python -m train cifar10_preact_resnet164_noise70 --workdir runs/cifar10_preact_resnet164_noise70

Time: 160,000 steps of 64 images, 10,240,000 in all; not measured.
Result, error in % on the clean test images: 17.21 (RAN paper, as quoted by a third party).
"""

import dataclasses

from configs.cifar.cifar10_preact_resnet164 import config as base

config = dataclasses.replace(base, data=dataclasses.replace(base.data, label_noise=0.7))
