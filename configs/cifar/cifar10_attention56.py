"""Attention-56 on CIFAR-10, otherwise as in cifar10_attention92.

    python -m train cifar10_attention56 --workdir runs/cifar10_attention56

Time: 160,000 steps of 64 images, 10,240,000 in all; not measured.
Result, error in % on CIFAR-10: 5.52 (RAN paper; recalled, not read at its source); 5.20 in that paper's table of masks
(recalled, not read at its source).
"""

import dataclasses

from configs.cifar.cifar10_attention92 import config as base
from train.config import ModelConfig

config = dataclasses.replace(base, model=ModelConfig(name="attention56_cifar"))
