"""Digits on canvases: where they lie, that test digits stay apart; and some of the training images alone."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from PIL import Image

from train.config import DataConfig
from train.config.errors import UserError
from train.data import Dataset, Split, open_dataset
from train.data.canvas import canvas_boxes, on_canvases

COPIES = 4


@pytest.fixture(scope="module")
def canvases() -> Dataset:
    return open_dataset(DataConfig(source="canvas_digits"))


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return open_dataset(DataConfig())


@pytest.fixture(scope="module")
def few(digits: Dataset) -> Dataset:
    """20 digits to train on and 20 to test on."""
    return dataclasses.replace(digits, train=_Some(digits.train, range(20)), test=_Some(digits.test, range(20)))


def stacked(split: Split) -> tuple[np.ndarray, list[int]]:
    images, labels = zip(*(split[index] for index in range(len(split))), strict=True)
    return np.stack(images), list(labels)


def test_each_digit_has_four_canvases_of_64x64_gray_bytes(canvases: Dataset, digits: Dataset):
    assert (len(canvases.train), len(canvases.test), canvases.class_names) == (5748, 1440, digits.class_names)
    assert canvases.origin == f"{digits.origin} on canvases"
    for split, alone in ((canvases.train, digits.train), (canvases.test, digits.test)):
        images, labels = stacked(split)
        assert (images.dtype, images.shape[1:]) == (np.uint8, (64, 64, 1))
        assert labels == np.repeat(stacked(alone)[1], COPIES).tolist()
        assert len({image.tobytes() for image in images}) == len(images)
        assert 40 < images.mean() < 80
        assert (images.max((1, 2, 3)) - images.min((1, 2, 3))).min() > 90


def test_canvases_are_always_the_same(few: Dataset):
    one, two = on_canvases(few), on_canvases(few)
    for a, b in ((one.train, two.train), (one.test, two.test)):
        np.testing.assert_array_equal(stacked(a)[0], stacked(b)[0])
        np.testing.assert_array_equal(canvas_boxes(a), canvas_boxes(b))


def test_a_canvas_shows_the_digit_in_its_box(canvases: Dataset, digits: Dataset):
    boxes, scans = canvas_boxes(canvases.test), stacked(digits.test)[0][..., 0]
    assert boxes is not None
    assert boxes.shape == (1440, 4)
    likeness = []
    for index, (y0, x0, y1, x1) in enumerate(boxes):
        assert 0 <= y0 < y1 <= 64
        assert 0 <= x0 < x1 <= 64
        assert y1 - y0 <= 24
        scan = scans[index // COPIES]
        rows, columns = (np.flatnonzero(scan.max(axis) > 64) for axis in (1, 0))
        scan = scan[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        shown = Image.fromarray(canvases.test[index][0][y0:y1, x0:x1, 0]).resize(scan.shape[::-1])
        likeness.append(np.corrcoef(np.asarray(shown).ravel(), scan.ravel())[0, 1])
    assert np.median(likeness) > 0.75
    corners = np.stack([boxes[:, :2].min(0), boxes[:, 2:].max(0)])
    assert corners.tolist() == [[0, pytest.approx(1, abs=3)], [64, pytest.approx(63, abs=3)]]


def test_test_canvases_are_made_of_test_digits_alone_and_training_canvases_of_the_others(few: Dataset):
    made = on_canvases(few)
    for part in ("train", "test"):
        blank = on_canvases(dataclasses.replace(few, **{part: _Blank(getattr(few, part))}))
        kept, changed = ("test", "train") if part == "train" else ("train", "test")
        np.testing.assert_array_equal(stacked(getattr(blank, kept))[0], stacked(getattr(made, kept))[0])
        assert stacked(getattr(blank, changed))[0].max() < 200


@dataclasses.dataclass(frozen=True)
class _Some:
    split: Split
    places: range

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return self.split[self.places[index]]

    def name(self, index: int) -> str:
        return self.split.name(self.places[index])


class _Blank(_Some):
    """Digits of one gray dot."""

    def __init__(self, split: Split) -> None:
        super().__init__(split, range(len(split)))

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        image = np.zeros((8, 8, 1), np.uint8)
        image[4, 4] = 60
        return image, 0


def test_boxes_are_known_of_canvases_alone(digits: Dataset):
    assert canvas_boxes(digits.test) is None


def test_some_training_images_are_always_the_same_of_all_classes_and_among_more():
    every, more, few = (open_dataset(DataConfig(train_images=count)) for count in (None, 400, 200))
    assert (len(more.train), len(few.train), len(few.test)) == (400, 200, 360)
    names = [{data.train.name(index) for index in range(len(data.train))} for data in (few, more, every)]
    assert names[0] < names[1] < names[2]
    assert min(np.bincount(stacked(few.train)[1])) > 10
    again = open_dataset(DataConfig(train_images=200))
    np.testing.assert_array_equal(stacked(few.train)[0], stacked(again.train)[0])
    np.testing.assert_array_equal(stacked(few.test)[0], stacked(every.test)[0])


def test_more_training_images_than_there_are_and_none_are_refused():
    with pytest.raises(UserError, match=r"^data.train_images=1438 is more than the 1437 training images"):
        open_dataset(DataConfig(train_images=1438))
    with pytest.raises(UserError, match=r"data.train_images=0 must be from 1 to 2147483648"):
        DataConfig(train_images=0)
