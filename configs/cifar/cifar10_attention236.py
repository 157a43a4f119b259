"""Attention-236 on CIFAR-10, otherwise as in cifar10_attention92.

    python -m train cifar10_attention236 --workdir runs/cifar10_attention236

Time: 160,000 steps of 64 images, 10,240,000 in all; not measured.
Result, error in % on CIFAR-10: 4.14 (RAN paper, as quoted by two independent repositories).
"""

import dataclasses

from configs.cifar.cifar10_attention92 import config as base
from train.config import ModelConfig

config = dataclasses.replace(base, model=ModelConfig(name="attention236_cifar"))
