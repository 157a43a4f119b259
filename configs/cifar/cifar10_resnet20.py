"""ResNet-20 on CIFAR-10, otherwise as in cifar10_attention92.

    python -m train cifar10_resnet20 --workdir runs/cifar10_resnet20

Time: 160,000 steps of 64 images, 10,240,000 in all; not measured.
Result, error in % on CIFAR-10: 8.75 (ResNet paper, shortcuts without parameters; recalled, not read at its
source).
"""

import dataclasses

from configs.cifar.cifar10_attention92 import config as base
from train.config import ModelConfig

config = dataclasses.replace(base, model=ModelConfig(name="resnet20_cifar"))
