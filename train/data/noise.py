"""Label noise: training labels replaced at random."""

from __future__ import annotations

import dataclasses

import numpy as np

from train.data.dataset import Split


def with_label_noise(split: Split, share: float, num_classes: int, seed: int) -> Split:
    """Replaces a random share of the labels by other classes, the same ones in every epoch.

    The confusion matrix is that of Wang et al., Residual Attention Network, 2017: 1 - share on the diagonal and
    share / (num_classes - 1) elsewhere.

    Args:
      split: the training images.
      share: probability that a label is replaced; 0 returns the split itself.
      num_classes: labels are from 0 to num_classes - 1.
      seed: of the choice of images and labels; all processes get the same.
    """
    if not share:
        return split
    rng = np.random.default_rng(seed)
    wrong = rng.random(len(split)) < share
    return _Noisy(split, np.where(wrong, rng.integers(1, num_classes, len(split)), 0), num_classes)


@dataclasses.dataclass(frozen=True)
class _Noisy:
    split: Split
    shifts: np.ndarray
    num_classes: int

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        image, label = self.split[index]
        return image, (label + int(self.shifts[index])) % self.num_classes

    def name(self, index: int) -> str:
        return self.split.name(index)
