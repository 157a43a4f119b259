"""CBAM's spatial gate: its pooling over the channels, and its kernel size.

    python -m train.ablate cbam_spatial --workdir runs/cbam_spatial

CBAM paper, table 2, there with ResNet-50 on ImageNet; here a small ResNet on cluttered canvases.

Time: 539 steps of 64 images take about 31 s of CPU time a seed on two cores of an AMD EPYC (2026-11-21).
Result, test error over seeds 0 to 4: channel gate of means (SE): 18.04 +- 1.77 %; channel gate: 17.21 +- 1.28 %;
channel, 1x1 convolution, 3x3: 20.44 +- 2.84 %; channel, 1x1 convolution, 7x7: 20.03 +- 2.57 %; channel, mean and max,
3x3: 19.89 +- 2.82 %; channel, mean and max, 7x7: 19.44 +- 2.56 %.
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
        "channel gate": _cbam(spatial=False),
        "channel, 1x1 convolution, 3x3": _cbam(descriptor="conv", kernel_size=3),
        "channel, 1x1 convolution, 7x7": _cbam(descriptor="conv", kernel_size=7),
        "channel, mean and max, 3x3": _cbam(kernel_size=3),
        "channel, mean and max, 7x7": _cbam(kernel_size=7),
    },
    published={
        "channel gate of means (SE)": "23.14 / 6.70",
        "channel gate": "22.80 / 6.52",
        "channel, 1x1 convolution, 3x3": "22.96 / 6.64",
        "channel, 1x1 convolution, 7x7": "22.90 / 6.47",
        "channel, mean and max, 3x3": "22.68 / 6.41",
        "channel, mean and max, 7x7": "22.66 / 6.31",
    },
    source="ImageNet top-1 / top-5 error, CBAM paper, table 2 (recalled)",
)
