"""CBAM's two gates: in sequence, in either order, and in parallel.

    python -m train.ablate cbam_arrangement --workdir runs/cbam_arrangement

CBAM paper, table 3, there with ResNet-50 on ImageNet; here a small ResNet on cluttered canvases.

Time: 539 steps of 64 images take about 31 s of CPU time a seed on two cores of an AMD EPYC (2026-11-21).
Result, test error over seeds 0 to 4: channel gate of means (SE): 18.04 +- 1.77 %; channel, then spatial: 19.44 +- 2.56
%; spatial, then channel: 20.03 +- 2.34 %; side by side: 19.65 +- 0.90 %.
"""

from configs.digits.canvas_cbam import config as canvas
from train.config import Ablation

_NET = {"stage_sizes": (1, 1, 1), "stem": "imagenet"}


def _cbam(**attention: object) -> dict[str, object]:
    return {"model.options": {**_NET, "attention": attention}}


ablation = Ablation(
    base=canvas,
    variants={
        "channel gate of means (SE)": _cbam(spatial=False, pools=("avg",)),
        "channel, then spatial": _cbam(arrangement="channel_first"),
        "spatial, then channel": _cbam(arrangement="spatial_first"),
        "side by side": _cbam(arrangement="parallel"),
    },
    published={
        "channel gate of means (SE)": "23.14 / 6.70",
        "channel, then spatial": "22.66 / 6.31",
        "spatial, then channel": "22.78 / 6.42",
        "side by side": "22.95 / 6.59",
    },
    source="ImageNet top-1 / top-5 error, CBAM paper, table 3 (recalled)",
)
