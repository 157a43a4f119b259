"""Attention-92 on CIFAR-100, otherwise as in cifar10_attention92; the base of the other cifar100 configs.

    python -m train.prepare cifar100 --from FOLDER_OF_THE_DOWNLOAD
    python -m train cifar100_attention92 --workdir runs/cifar100_attention92

Time: 160,000 steps of 64 images, 10,240,000 in all; not measured.
Result, error in % on CIFAR-100: 21.71 (RAN paper, as quoted by two independent repositories).
"""

import dataclasses

from configs.cifar.cifar10_attention92 import config as base

config = dataclasses.replace(
    base,
    data=dataclasses.replace(
        base.data, source="tfds:cifar100", mean=(0.5071, 0.4865, 0.4409), std=(0.2673, 0.2564, 0.2762)
    ),
)
