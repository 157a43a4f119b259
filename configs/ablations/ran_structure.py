"""Residual attention: a mask from an encoder and decoder, or from residual units at full size.

    python -m train.ablate ran_structure --workdir runs/ran_structure

RAN paper, mask structure of Attention-56 on CIFAR-10; here a narrow Attention-56 on the scanned digits,
8x8 pixels.

Time: 300 steps of 64 images take about 25 s of CPU time a seed on two cores of an AMD EPYC (2026-11-21).
Result, test error over seeds 0 to 4: encoder and decoder: 4.61 +- 1.93 %; local convolutions: 3.94 +- 0.82 %.
"""

import dataclasses

from configs.digits.digits_cbam import config as digits
from train.config import Ablation, ModelConfig

_NET = {"widths": (16, 32, 64), "stem_width": 8}


def _mask(mask: str) -> dict[str, object]:
    return {"model.options": {**_NET, "attention": {"mask": mask}}}


ablation = Ablation(
    base=dataclasses.replace(
        digits, model=ModelConfig(name="attention56_cifar", options=_NET), total_epochs=None, total_steps=300
    ),
    variants={"encoder and decoder": _mask("encoder_decoder"), "local convolutions": _mask("local")},
    published={"encoder and decoder": "5.52", "local convolutions": "6.48"},
    source="CIFAR-10 top-1 error, RAN paper (recalled)",
)
