"""Residual attention against naive attention, by depth.

    python -m train.ablate ran_learning --workdir runs/ran_learning

RAN paper, there on CIFAR-10: with T (1 + M) errors fall with depth, with T M they rise from Attention-128 on. Here
narrow nets with one and two modules a stage, on the scanned digits, 8x8 pixels.

Time: 200 steps of 64 images take about 28 s of CPU time a seed on two cores of an AMD EPYC (2026-11-22).
Result, test error over seeds 0 to 4: 1 module a stage, residual: 5.67 +- 2.02 %; 1 module a stage, naive: 12.39 +- 4.23
%; 2 modules a stage, residual: 6.83 +- 1.40 %; 2 modules a stage, naive: 40.39 +- 9.09 %.
"""

import dataclasses

from configs.digits.digits_cbam import config as digits
from train.config import Ablation, ModelConfig

_NET = {"widths": (16, 32, 64), "stem_width": 8}


def _net(name: str, learning: str) -> dict[str, object]:
    return {"model.name": name, "model.options": {**_NET, "attention": {"learning": learning}}}


ablation = Ablation(
    base=dataclasses.replace(
        digits, model=ModelConfig(name="attention56_cifar", options=_NET), total_epochs=None, total_steps=200
    ),
    variants={
        "1 module a stage, residual": _net("attention56_cifar", "attention"),
        "1 module a stage, naive": _net("attention56_cifar", "naive"),
        "2 modules a stage, residual": _net("attention92_cifar", "attention"),
        "2 modules a stage, naive": _net("attention92_cifar", "naive"),
    },
    published={
        "1 module a stage, residual": "5.52",
        "1 module a stage, naive": "5.89",
        "2 modules a stage, residual": "4.99",
        "2 modules a stage, naive": "5.35",
    },
    source="CIFAR-10 top-1 error, RAN paper (recalled)",
)
