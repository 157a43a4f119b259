"""Residual attention: a mask from an encoder and decoder, or from residual units at full size.

    python -m train.ablate configs/ablations/ran_structure.py --workdir runs/ran_structure

RAN paper, mask structure of Attention-56 on CIFAR-10; here a narrow Attention-56 on cluttered canvases.

Time: not measured yet; 539 steps a seed.
Result: none yet.
"""

import dataclasses

from configs.canvas_cbam import config as canvas
from train.ablation import Ablation
from train.config import ModelConfig

_NET = {"widths": (32, 64, 128), "stem": "imagenet", "stem_width": 16}


def _mask(mask: str) -> dict[str, object]:
    return {"model.options": {**_NET, "attention": {"mask": mask}}}


ablation = Ablation(
    base=dataclasses.replace(canvas, model=ModelConfig(name="attention56_cifar", options=_NET)),
    variants={"encoder and decoder": _mask("encoder_decoder"), "local convolutions": _mask("local")},
    published={"encoder and decoder": "5.52", "local convolutions": "6.48"},
    source="CIFAR-10 top-1 error, RAN paper (recalled)",
)
