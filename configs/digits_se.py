"""SE-ResNet-20 on the scanned digits, otherwise as digits_cbam.

    python -m train configs/digits_se.py --workdir runs/digits_se

TIME_AND_RESULT
"""

import dataclasses

from configs.digits_cbam import config as base
from train.config import ModelConfig

config = dataclasses.replace(base, model=ModelConfig(name="se_resnet20_cifar"))
