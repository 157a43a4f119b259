"""The embedded default with the smallest net, in batches of 16: what tests train where the net does not matter."""

import dataclasses

from configs.digits.digits_cbam import config as digits
from train.config import ModelConfig

config = dataclasses.replace(
    digits,
    model=ModelConfig("resnet20_cifar", options={"stage_sizes": (1,), "widths": (16,), "stem_width": 32}),
    data=dataclasses.replace(digits.data, batch_size=16),
    log_every_steps=2,
)
