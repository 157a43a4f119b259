"""Attention-452 on CIFAR-10, otherwise as in cifar10_attention92.

    python -m train cifar10_attention452 --workdir runs/cifar10_attention452

Time: 160,000 steps of 64 images, 10,240,000 in all; not measured.
Result, error in % on CIFAR-10: 3.90 (RAN paper, as quoted by two independent repositories).
"""

import dataclasses

from configs.cifar.cifar10_attention92 import config as base
from train.config import ModelConfig

config = dataclasses.replace(base, model=ModelConfig(name="attention452_cifar"))
