"""CBAM-ResNet-110 on CIFAR-10, otherwise as in cifar10_attention92.

    python -m train cifar10_cbam_resnet110 --workdir runs/cifar10_cbam_resnet110

Time: 160,000 steps of 64 images, 10,240,000 in all; not measured.
Result: none found in the literature.
"""

import dataclasses

from configs.cifar.cifar10_attention92 import config as base
from train.config import ModelConfig

config = dataclasses.replace(base, model=ModelConfig(name="cbam_resnet110_cifar"))
