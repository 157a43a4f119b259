"""Label noise: residual attention against a plain net.

    python -m train.ablate label_noise --workdir runs/label_noise

RAN paper, 10 to 70 % of CIFAR-10's training labels wrong, ResNet-164 against Attention-92; here a narrow Attention-56
against a plain net of the same units and as many multiply-accumulates, on the scanned digits, 8x8 pixels.

Time: 300 steps of 64 images take about 20 s of CPU time a seed on two cores of an AMD EPYC (2026-11-21).
Result, test error over seeds 0 to 4: plain, 10 %: 6.94 +- 1.13 %; attention, 10 %: 5.56 +- 0.94 %; plain, 30 %: 11.11
+- 3.84 %; attention, 30 %: 10.72 +- 1.89 %; plain, 50 %: 19.22 +- 4.50 %; attention, 50 %: 20.72 +- 3.28 %; plain, 70
%: 51.33 +- 4.30 %; attention, 70 %: 49.22 +- 8.09 %.
"""

import dataclasses
from typing import Any

from configs.digits.digits_cbam import config as digits
from train.config import Ablation, ModelConfig

_NET = {"widths": (16, 32, 64), "stem_width": 8}
_NETS: dict[str, dict[str, Any]] = {
    "plain": {"model.name": "preact_resnet164_cifar", "model.options": {**_NET, "stage_units": (9, 9, 9)}},
    "attention": {"model.name": "attention56_cifar"},
}
_PUBLISHED = {10: (5.93, 5.15), 30: (6.61, 5.79), 50: (8.35, 7.27), 70: (17.21, 15.75)}

ablation = Ablation(
    base=dataclasses.replace(
        digits, model=ModelConfig(name="attention56_cifar", options=_NET), total_epochs=None, total_steps=300
    ),
    variants={
        f"{label}, {percent} %": {**net, "data.label_noise": percent / 100}
        for percent in _PUBLISHED
        for label, net in _NETS.items()
    },
    published={
        f"{label}, {percent} %": f"{error:.2f}"
        for percent, errors in _PUBLISHED.items()
        for label, error in zip(_NETS, errors, strict=True)
    },
    source="CIFAR-10 top-1 error, RAN paper (recalled)",
)
