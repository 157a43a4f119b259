"""CBAM's channel gate: what it pools.

    python -m train.ablate configs/ablations/cbam_channel.py --workdir runs/cbam_channel

CBAM paper, table 1, there with ResNet-50 on ImageNet; here a small ResNet on cluttered canvases.

Time: not measured yet; 539 steps a seed.
Result: none yet.
"""

from configs.canvas_cbam import config as canvas
from train.ablation import Ablation

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
