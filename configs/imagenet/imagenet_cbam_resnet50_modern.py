"""CBAM-ResNet-50 on ImageNet-1K, by a recipe of 2021 instead of the paper's.

    python -m train imagenet_cbam_resnet50_modern --workdir runs/imagenet_cbam_resnet50_modern

After procedure A2 of Wightman et al., "ResNet strikes back" (recalled, not read at its source): LAMB, batches of
2048, 300 epochs along a cosine, RandAugment, Mixup and CutMix, a test crop of 95 %. Differences: the loss is
cross-entropy with label smoothing, RandAugment has its default magnitude, there are no repeated augmentations and no
stochastic depth, and an average of the weights is evaluated.

Time: 187,671 steps of 2048 images; not measured, docs/results/aot_table.md bounds the images per second.
Result: none found in the literature, none measured yet.
"""

import dataclasses

from configs.imagenet.imagenet_cbam_resnet50 import config as base
from train.config import OptimizerConfig, ScheduleConfig

config = dataclasses.replace(
    base,
    data=dataclasses.replace(
        base.data, batch_size=2048, resize=236, rand_augment_layers=2, rand_augment_magnitude=9, mixup=0.1, cutmix=1.0
    ),
    optimizer=OptimizerConfig(kind="lamb", learning_rate=5e-3, weight_decay=0.02, decay_norm_and_bias=False),
    schedule=ScheduleConfig(kind="cosine", warmup=5 / 300),
    total_epochs=300,
    label_smoothing=0.1,
    ema_decay=0.9999,
    checkpoint_every_steps=625,
    evaluate_every_steps=1250,
)
