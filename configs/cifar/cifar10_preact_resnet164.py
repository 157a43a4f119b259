"""ResNet-164 (pre-activation) on CIFAR-10, otherwise as in cifar10_attention92.

    python -m train cifar10_preact_resnet164 --workdir runs/cifar10_preact_resnet164

The recipe is that of Attention-92, to make the nets comparable; the published figure may have another one.
Time: 160,000 steps of 64 images, 10,240,000 in all; not measured.
Result, error in % on CIFAR-10: 5.46 (RAN paper, as quoted by a third party).
"""

import dataclasses

from configs.cifar.cifar10_attention92 import config as base
from train.config import ModelConfig

config = dataclasses.replace(base, model=ModelConfig(name="preact_resnet164_cifar"))
