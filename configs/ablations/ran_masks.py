"""Residual attention: the activation of the masks.

    python -m train.ablate ran_masks --workdir runs/ran_masks

RAN paper, activations of Attention-56's masks on CIFAR-10; here a narrow Attention-56 on the scanned digits, 8x8
pixels. Mixed is a sigmoid of each element, channel divides by the norm over the channels, spatial standardises each
channel's map first.

Time: 300 steps of 64 images take about 25 s of CPU time a seed on two cores of an AMD EPYC (2026-11-21).
Result, test error over seeds 0 to 4: mixed: 4.61 +- 1.93 %; channel: 3.72 +- 1.01 %; spatial: 4.00 +- 1.49 %.
"""

import dataclasses

from configs.digits.digits_cbam import config as digits
from train.config import Ablation, ModelConfig

_NET = {"widths": (16, 32, 64), "stem_width": 8}


def _mask(norm: str) -> dict[str, object]:
    return {"model.options": {**_NET, "attention": {"mask_norm": norm}}}


ablation = Ablation(
    base=dataclasses.replace(
        digits, model=ModelConfig(name="attention56_cifar", options=_NET), total_epochs=None, total_steps=300
    ),
    variants={"mixed": _mask("mixed"), "channel": _mask("channel"), "spatial": _mask("spatial")},
    published={"mixed": "5.20", "channel": "6.24", "spatial": "6.33"},
    source="CIFAR-10 top-1 error, RAN paper (recalled)",
)
