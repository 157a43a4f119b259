"""ResNet-20 with GGAM's attention, head and loss on the scanned digits, otherwise as digits_cbam.

    python -m train configs/digits_ggam.py --workdir runs/digits_ggam

Time: about 45 s on two CPU cores.
Result, test accuracy: 0 %
"""

import dataclasses

from configs.digits_cbam import config as base
from train.config import GGAMConfig, ModelConfig

config = dataclasses.replace(
    base,
    model=ModelConfig(name="ggam_resnet20_cifar"),
    ggam=GGAMConfig(weight=1.0, beta_norm="softmax"),
)
