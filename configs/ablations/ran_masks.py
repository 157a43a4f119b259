"""Residual attention: what makes the mask of its logits.

    python -m train.ablate configs/ablations/ran_masks.py --workdir runs/ran_masks

RAN paper, activations of Attention-56's masks on CIFAR-10; here a narrow Attention-56 on cluttered canvases. Mixed is a
sigmoid of each element, channel divides by the norm over the channels, spatial standardises each channel's map first.

Time: not measured yet; 539 steps a seed.
Result: none yet.
"""

import dataclasses

from configs.canvas_cbam import config as canvas
from train.ablation import Ablation
from train.config import ModelConfig

_NET = {"widths": (32, 64, 128), "stem": "imagenet", "stem_width": 16}


def _mask(norm: str) -> dict[str, object]:
    return {"model.options": {**_NET, "attention": {"mask_norm": norm}}}


ablation = Ablation(
    base=dataclasses.replace(canvas, model=ModelConfig(name="attention56_cifar", options=_NET)),
    variants={"mixed": _mask("mixed"), "channel": _mask("channel"), "spatial": _mask("spatial")},
    published={"mixed": "5.20", "channel": "6.24", "spatial": "6.33"},
    source="CIFAR-10 top-1 error, RAN paper (recalled)",
)
