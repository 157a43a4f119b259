"""Attention-236 on CIFAR-100, otherwise as in cifar100_attention92.

    python -m train cifar100_attention236 --workdir runs/cifar100_attention236

Time: 160,000 steps of 64 images, 10,240,000 in all; not measured.
Result, error in % on CIFAR-100: 21.16 (RAN paper, as quoted by two independent repositories).
"""

import dataclasses

from configs.cifar.cifar100_attention92 import config as base
from train.config import ModelConfig

config = dataclasses.replace(base, model=ModelConfig(name="attention236_cifar"))
