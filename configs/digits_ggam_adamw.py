"""A case in which GGAM's guidance does what it is for: a small net on the scanned digits, trained by AdamW.

    python -m train configs/digits_ggam_adamw.py --workdir runs/digits_ggam_adamw

TODO

Time: TODO 0
Result: TODO
"""

import dataclasses

from configs.digits_cbam import config as base
from train.config import GGAMConfig, ModelConfig, OptimizerConfig

config = dataclasses.replace(
    base,
    model=ModelConfig(
        name="ggam_resnet20_cifar",
        options={
            "backbone": {"stage_sizes": (1, 1), "widths": (16, 32)},
            "attention": {"reduction": 1, "spatial_norm": "sum"},
            "hidden": 64,
        },
    ),
    optimizer=OptimizerConfig(kind="adamw", learning_rate=3e-3, weight_decay=1e-2),
    ggam=GGAMConfig(weight=100.0, beta_norm="softmax", wrt="D"),
    total_epochs=25,
)
