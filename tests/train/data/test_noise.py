"""Wrong labels: how many, which, and that they stay."""

from __future__ import annotations

import numpy as np
import pytest

from train.config import DataConfig
from train.data import Split, open_dataset, with_label_noise


class Labels:
    """Images that are told apart by number, their labels in turn."""

    def __init__(self, count: int, classes: int) -> None:
        self._count, self._classes = count, classes

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return np.full((1, 1, 1), index % 256, np.uint8), index % self._classes

    def name(self, index: int) -> str:
        return f"image {index}"


def labels(split: Split) -> np.ndarray:
    return np.asarray([split[index][1] for index in range(len(split))])


def test_no_noise_gives_the_split_itself():
    clean = open_dataset(DataConfig()).train
    assert with_label_noise(clean, 0.0, 10, 0) is clean


@pytest.mark.parametrize(("share", "classes"), [(0.1, 10), (0.7, 10), (0.3, 2)])
def test_the_confusion_matrix_is_that_of_the_paper(share: float, classes: int):
    clean = Labels(100_000, classes)
    noisy = labels(with_label_noise(clean, share, classes, seed=1))
    confusion = np.zeros((classes, classes))
    np.add.at(confusion, (labels(clean), noisy), classes / len(clean))
    expected = np.full((classes, classes), share / (classes - 1))
    np.fill_diagonal(expected, 1 - share)
    np.testing.assert_allclose(confusion, expected, atol=0.015)


def test_wrong_labels_stay_and_follow_from_the_seed_alone():
    split = Labels(1000, 10)
    one, two, other = (with_label_noise(split, 0.5, 10, seed) for seed in (3, 3, 4))
    order = np.random.default_rng(0).permutation(1000)
    assert [one[index][1] for index in order] == labels(two)[order].tolist()
    assert labels(one).tolist() == labels(two).tolist() != labels(other).tolist()


def test_images_names_and_number_stay_as_they_are():
    split = Labels(50, 10)
    noisy = with_label_noise(split, 0.9, 10, seed=0)
    assert len(noisy) == 50
    assert all(np.array_equal(noisy[index][0], split[index][0]) for index in range(50))
    assert [noisy.name(index) for index in range(50)] == [split.name(index) for index in range(50)]
