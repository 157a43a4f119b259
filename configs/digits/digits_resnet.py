"""ResNet-20 without attention on the scanned digits, otherwise as in digits_cbam.

    python -m train digits_resnet --workdir runs/digits_resnet

Time: about 40 s on two CPU cores.
Result, test accuracy: 99.55 +- 0.32 % over seeds 0 to 4, 99.44 % with seed 0.
"""

import dataclasses

from configs.digits.digits_cbam import config as base
from train.config import ModelConfig

config = dataclasses.replace(base, model=ModelConfig(name="resnet20_cifar"))
