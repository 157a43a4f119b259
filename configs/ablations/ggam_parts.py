"""GGAM: its attention, the norm of its gate, and the guidance of its channel weights.

    python -m train.ablate ggam_parts --workdir runs/ggam_parts

GGAM paper, parts of the module with ResNet-50 on birds; here a small net on 200 scanned digits, see
`digits_ggam_adamw`.

Time: 300 steps of 64 images take about 9 s of CPU time a seed on two cores of an AMD EPYC (2026-11-21).
Result, test error over seeds 0 to 4: no attention: 7.00 +- 0.87 %; sum over positions: 7.83 +- 0.66 %; sum over
positions, guided: 8.00 +- 1.46 %; sigmoid: 8.28 +- 0.95 %; sigmoid, guided: 7.78 +- 1.16 %; softmax over positions:
7.33 +- 1.19 %; softmax over positions, guided: 7.06 +- 0.70 %.
"""

import dataclasses

from configs.digits.digits_ggam_adamw import config as digits
from train.config import Ablation

_NET = digits.model.options


def _part(spatial_norm: str, weight: float) -> dict[str, object]:
    attention = {**_NET["attention"], "spatial_norm": spatial_norm}
    return {"model.options": {**_NET, "attention": attention}, "ggam.weight": weight}


ablation = Ablation(
    base=dataclasses.replace(
        digits, data=dataclasses.replace(digits.data, train_images=200), total_epochs=None, total_steps=300
    ),
    variants={
        "no attention": {"model.options": {**_NET, "attention": None}, "ggam.weight": 0.0},
        "sum over positions": _part("sum", 0.0),
        "sum over positions, guided": _part("sum", 10.0),
        "sigmoid": _part("sigmoid", 0.0),
        "sigmoid, guided": _part("sigmoid", 10.0),
        "softmax over positions": _part("softmax", 0.0),
        "softmax over positions, guided": _part("softmax", 10.0),
    },
    published={
        "no attention": "14.9",
        "sigmoid": "13.14",
    },
    source="CUB-200-2011 top-1 error, PRIS-CV/CAM-Guided-Attention README history, before the paper",
)
