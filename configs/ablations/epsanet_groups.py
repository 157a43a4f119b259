"""EPSANet: groups of the four convolutions of a block.

    python -m train.ablate epsanet_groups --workdir runs/epsanet_groups

EPSANet paper, group sizes of EPSANet-50 on ImageNet; here a small EPSANet on cluttered canvases.

Time: not measured yet; 539 steps a seed.
Result: none yet.
"""

import dataclasses

from configs.digits.canvas_cbam import config as canvas
from train.config import Ablation, ModelConfig

_NET = {"stage_sizes": (1, 1, 1), "widths": (64, 64, 64), "stem_width": 16}


def _groups(*groups: int) -> dict[str, object]:
    return {"model.options": {**_NET, "spatial_conv": {"groups": groups}}}


ablation = Ablation(
    base=dataclasses.replace(canvas, model=ModelConfig(name="epsanet50_small", options=_NET)),
    variants={
        "4, 8, 16, 16": _groups(4, 8, 16, 16),
        "16, 16, 16, 16": _groups(16, 16, 16, 16),
        "1, 4, 8, 16": _groups(1, 4, 8, 16),
    },
    published={
        "4, 8, 16, 16": "22.75 / 6.60",
        "16, 16, 16, 16": "22.76 / 6.53",
        "1, 4, 8, 16": "22.51 / 6.46",
    },
    source="ImageNet top-1 / top-5 error, EPSANet paper, group sizes (recalled)",
)
