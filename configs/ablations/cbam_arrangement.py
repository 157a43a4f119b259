"""CBAM's two gates: the channel gate alone (SE), one after the other in either order, and side by side.

    python -m train.ablate configs/ablations/cbam_arrangement.py --workdir runs/cbam_arrangement

CBAM paper, table 3, there with ResNet-50 on ImageNet; here a ResNet-8 of widths 8, 16 and 32 on the scanned digits.

Time: 6 minutes for 20 runs of 450 steps, beside other jobs on two CPU cores (2026-11-21).
Result, test error over seeds 0 to 4: SE 1.50 +- 0.64 %, channel first 1.17 +- 0.57 %, spatial first 1.28 +- 0.37 %,
parallel 1.06 +- 0.23 %: they do not differ by more than their spread.
"""

import dataclasses

from configs.digits_cbam import config as digits
from train.ablation import Ablation
from train.config import ModelConfig

_SMALL = {"widths": (8, 16, 32), "stage_sizes": (1, 1, 1), "stem_width": 8}


def _cbam(arrangement: str) -> dict[str, object]:
    return {"model.options": {**_SMALL, "attention": {"reduction": 4, "arrangement": arrangement}}}


ablation = Ablation(
    base=dataclasses.replace(digits, model=ModelConfig(name="cbam_resnet20_cifar", options=_SMALL), total_epochs=20),
    variants={
        "channel (SE)": {
            "model.name": "se_resnet20_cifar",
            "model.options": {**_SMALL, "attention": {"reduction": 4}},
        },
        "channel, then spatial": _cbam("channel_first"),
        "spatial, then channel": _cbam("spatial_first"),
        "channel and spatial in parallel": _cbam("parallel"),
    },
    published={
        "channel (SE)": "23.14 / 6.70",
        "channel, then spatial": "22.66 / 6.31",
        "spatial, then channel": "22.78 / 6.42",
        "channel and spatial in parallel": "22.95 / 6.59",
    },
    source="ImageNet top-1 / top-5 error, CBAM paper, table 3, recalled",
)
