"""ResNet-20 without attention on the scanned digits, otherwise as digits_cbam.

    python -m train configs/digits_resnet.py --workdir runs/digits_resnet

TIME_AND_RESULT
"""

import dataclasses

from configs.digits_cbam import config as base
from train.config import ModelConfig

config = dataclasses.replace(base, model=ModelConfig(name="resnet20_cifar"))
