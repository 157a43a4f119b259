"""Attention-56 on ImageNet-1K, by the recipe of its paper; the base of the other residual attention networks.

    python -m train imagenet_attention56 --workdir runs/imagenet_attention56

As imagenet_resnet50, with 530,000 steps and the learning rate divided by 10 after 200,000, 400,000 and 500,000. The
paper gives no batch size; the authors had at least 32 images per GPU (README, read). It augments colours without giving
a strength: 0.4 is ours.

Time: 530,000 steps of 256 images; not measured, docs/results/aot_table.md bounds the images per second.
Result, top-1 / top-5 error in % of one 224 crop: 21.76 / 5.90 (README of fwang91/residual-attention-network, read);
22.36 top-1 after 106 epochs of batches of 256 (a user in tengshaofeng/ResidualAttentionNetwork-pytorch, issue 35,
read).
"""

import dataclasses

from configs.imagenet.imagenet_resnet50 import config as base
from train.config import ScheduleConfig

config = dataclasses.replace(
    base,
    model=dataclasses.replace(base.model, name="attention56"),
    data=dataclasses.replace(base.data, color_jitter=0.4),
    schedule=ScheduleConfig(kind="step", milestones=(20 / 53, 40 / 53, 50 / 53)),
    total_epochs=None,
    total_steps=530_000,
)
