"""CBAM-ResNet-20 on Fashion-MNIST: the recipe of the cifar10 configs, cut to about 30 minutes on two CPU cores.

    python -m train.prepare fashion_mnist --from FOLDER_OF_THE_DOWNLOAD
    python -m train fashion_mnist_cbam_resnet20 --workdir runs/fashion_mnist_cbam_resnet20

Time: 4,688 steps of 64 images take 32 minutes of CPU time; 76 minutes beside other jobs on two cores (2026-11-21).
Result, error in % on Fashion-MNIST: 8.61, seed 0, one run (measured here on two cores, 2026-11-21).
"""

import dataclasses

from configs.cifar.cifar10_attention92 import config as base

config = dataclasses.replace(
    base,
    model=dataclasses.replace(base.model, name="cbam_resnet20_cifar"),
    data=dataclasses.replace(base.data, source="tfds:fashion_mnist", mean=(0.2860,), std=(0.3530,)),
    total_steps=None,
    total_epochs=5,
    checkpoint_every_steps=500,
    evaluate_every_steps=1000,
)
