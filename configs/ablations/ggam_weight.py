"""GGAM: the factor lambda of the guidance loss.

    python -m train.ablate ggam_weight --workdir runs/ggam_weight

GGAM paper, lambda with ResNet-50 on birds, where every lambda was better than none; here a small net on the scanned
digits, see `digits_ggam_adamw`.

Time: 562 steps of 64 images take about 9 s of CPU time a seed on two cores of an AMD EPYC (2026-11-21).
Result, test error over seeds 0 to 4: lambda 0: 0.89 +- 0.36 %; lambda 1: 1.11 +- 0.71 %; lambda 10: 0.83 +- 0.44 %;
lambda 100: 1.44 +- 0.91 %; lambda 1000: 1.67 +- 0.44 %.
"""

from configs.digits.digits_ggam_adamw import config as digits
from train.config import Ablation

ablation = Ablation(
    base=digits,
    variants={f"lambda {weight:g}": {"ggam.weight": weight} for weight in (0.0, 1.0, 10.0, 100.0, 1000.0)},
)
