"""BAM: the combination of its branches, and the dilation of the spatial one.

    python -m train.ablate bam_branches --workdir runs/bam_branches

BAM paper, table 2, there with ResNet-50 on CIFAR-100, where summation and dilation 4 were best; here a small ResNet
with BAM after its first stages, on cluttered canvases.

Time: not measured yet; 539 steps a seed.
Result: none yet.
"""

import dataclasses

from configs.digits.canvas_cbam import config as canvas
from train.config import Ablation, ModelConfig

_NET = {"stage_sizes": (1, 1, 1, 1), "widths": (16, 32, 64, 64), "stem": "imagenet", "stem_width": 16}


def _bam(**attention: object) -> dict[str, object]:
    return {"model.options": {**_NET, "attention": {"reduction": 4, **attention}}}


ablation = Ablation(
    base=dataclasses.replace(canvas, model=ModelConfig(name="bam_resnet18_cifar", options=_NET)),
    variants={
        "no attention": {"model.name": "resnet18_cifar"},
        "sum, dilation 1": _bam(fuse="sum", dilation=1),
        "sum, dilation 2": _bam(fuse="sum", dilation=2),
        "sum, dilation 4": _bam(fuse="sum"),
        "sum, dilation 6": _bam(fuse="sum", dilation=6),
        "product, dilation 4": _bam(),
    },
    published={"sum, dilation 4": "20.00"},
    source="CIFAR-100 top-1 error, BAM paper, table 2 (recalled)",
)
