"""SE-ResNet-20 on the scanned digits, otherwise as in digits_cbam.

    python -m train digits_se --workdir runs/digits_se

Time: about 40 s on two CPU cores.
Result, test accuracy: 99.67 +- 0.36 % over seeds 0 to 4, 100.00 % with seed 0.
"""

import dataclasses

from configs.digits.digits_cbam import config as base
from train.config import ModelConfig

config = dataclasses.replace(base, model=ModelConfig(name="se_resnet20_cifar"))
