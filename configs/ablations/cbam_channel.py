"""CBAM's channel gate: its pooling.

    python -m train.ablate cbam_channel --workdir runs/cbam_channel

CBAM paper, table 1, there with ResNet-50 on ImageNet; here a small ResNet on cluttered canvases.

Time: 539 steps of 64 images take about 25 s of CPU time a seed on two cores of an AMD EPYC (2026-11-21).
Result, test error over seeds 0 to 4: no attention: 14.26 +- 0.84 %; mean (SE): 18.04 +- 1.77 %; max: 18.06 +- 1.79 %;
mean and max: 17.21 +- 1.28 %.
"""

from configs.digits.canvas_cbam import config as canvas
from train.config import Ablation

_NET = {"stage_sizes": (1, 1, 1), "stem": "imagenet"}


def _channel(*pools: str) -> dict[str, object]:
    return {"model.options": {**_NET, "attention": {"spatial": False, "pools": pools}}}


ablation = Ablation(
    base=canvas,
    variants={
        "no attention": {"model.name": "resnet20_cifar", "model.options": _NET},
        "mean (SE)": _channel("avg"),
        "max": _channel("max"),
        "mean and max": _channel("avg", "max"),
    },
    published={
        "no attention": "24.56 / 7.50",
        "mean (SE)": "23.14 / 6.70",
        "max": "23.20 / 6.83",
        "mean and max": "22.80 / 6.52",
    },
    source="ImageNet top-1 / top-5 error, CBAM paper, table 1 (recalled)",
)
