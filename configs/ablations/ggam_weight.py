"""GGAM: the factor lambda of the guidance loss.

    python -m train.ablate configs/ablations/ggam_weight.py --workdir runs/ggam_weight

GGAM paper, lambda with ResNet-50 on birds, where every lambda was better than none; here a small net on the scanned
digits, see `configs/digits_ggam_adamw.py`.

Time: not measured yet; 562 steps a seed.
Result: none yet.
"""

from configs.digits_ggam_adamw import config as digits
from train.ablation import Ablation

ablation = Ablation(
    base=digits,
    variants={f"lambda {weight:g}": {"ggam.weight": weight} for weight in (0.0, 1.0, 10.0, 100.0, 1000.0)},
)
