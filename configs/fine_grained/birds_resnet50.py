"""ResNet-50 without attention on CUB-200-2011, otherwise as in birds_ggam_resnet50.

    python -m train birds_resnet50 --workdir runs/birds_resnet50

Learning rate 0.1 for the classifier and 0.01 for the rest, 100 epochs, as in the released baselines. Those have the
head of GGAM's net and, for VGG-16, 224 pixels; this net has a single dense layer and 448 pixels.

Time: 18,732 steps of 32 images, 599,424 in all; not measured.
Result, error in %: 13.50 (README history of PRIS-CV/CAM-Guided-Attention, read; before the paper).
"""

import dataclasses

from configs.fine_grained.birds_ggam_resnet50 import config as base
from train.config import GGAMConfig

config = dataclasses.replace(
    base,
    model=dataclasses.replace(base.model, name="resnet50"),
    optimizer=dataclasses.replace(base.optimizer, learning_rate=0.01, scaled_module="fc", scaled_by=10.0),
    ggam=GGAMConfig(),
    total_epochs=100,
)
