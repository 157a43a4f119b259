"""Random changes of training images, by numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from train.config import DataConfig
from train.config.errors import UserError
from train.data import open_dataset
from train.data.augment import (
    AUGMENTATIONS,
    OPERATIONS,
    Augmentation,
    augment,
    color_jitter,
    rand_augment,
    random_crop,
    random_resized_crop,
)
from train.data.images import resize

RAMP = np.arange(32, dtype=np.uint8).reshape(4, 8, 1)
PHOTO = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
NAMES = (
    *("identity", "autocontrast", "equalize", "posterize", "solarize", "brightness", "contrast", "color", "sharpness"),
    *("rotate", "shear_x", "shear_y", "translate_x", "translate_y"),
)


class Scripted:
    """Gives the random numbers it was told, in order."""

    def __init__(self, *numbers: float) -> None:
        self._numbers = list(numbers)

    def uniform(self, low: float, high: float) -> float:
        number = self._numbers.pop(0)
        assert low <= number <= high
        return number

    def random(self) -> float:
        return self.uniform(0, 1)

    def integers(self, low: int, high: Any = None) -> Any:
        low, high = (0, low) if high is None else (low, high)
        if isinstance(high, tuple):
            return [self.integers(low, limit) for limit in high]
        number = int(self._numbers.pop(0))
        assert low <= number < high
        return number

    def permutation(self, count: int) -> list[int]:
        return [self.integers(count) for _ in range(count)]


def scripted(*numbers: float) -> Any:
    return Scripted(*numbers)


def config(**settings: Any) -> DataConfig:
    return DataConfig(**{"augmentation": "none", "flip": False, **settings})


def apply(name: str, image: np.ndarray, strength: float) -> np.ndarray:
    gray = image.shape[-1] == 1
    picture = OPERATIONS[NAMES.index(name)](Image.fromarray(image[..., 0] if gray else image), strength)
    return np.asarray(picture).reshape(image.shape)


def test_nothing_is_changed_where_nothing_is_set():
    assert augment(config(), PHOTO, scripted()) is PHOTO


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"augmentation": "crop"}, "'crop' must be none, pad_crop, random_resized_crop or resize_crop"),
        ({"augmentation": "none+pad_corp"}, "or several joined by +: did you mean pad_crop?"),
        ({"augmentation": "random_resized_crop"}, "needs data.image_size"),
        ({"augmentation": "resize_crop", "image_size": 8}, "needs data.resize"),
    ],
)
def test_an_augmentation_that_does_not_fit_is_refused(settings: dict[str, Any], message: str):
    with pytest.raises(UserError, match=re.escape(message)):
        open_dataset(config(**settings))


def test_an_entry_in_the_table_is_a_new_augmentation(monkeypatch: pytest.MonkeyPatch):
    def invert(config: DataConfig, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return 255 - image

    monkeypatch.setitem(AUGMENTATIONS, "invert", Augmentation(invert))
    cropped, inverted = (
        augment(config(augmentation=name, resize=6, image_size=4), PHOTO, scripted(1, 2))
        for name in ("resize_crop", "resize_crop+invert")
    )
    assert (inverted == 255 - cropped).all()
    assert augment(config(augmentation="invert", image_size=4), PHOTO, scripted()).shape == (4, 4, 3)


@pytest.mark.parametrize(
    ("top", "left", "expected"),
    [(1, 1, [[1, 2], [3, 4]]), (0, 0, [[0, 0], [0, 1]]), (2, 0, [[0, 3], [0, 0]]), (0, 2, [[0, 0], [2, 0]])],
)
def test_pad_crop_moves_the_image_over_zeros(top: int, left: int, expected: list[list[int]]):
    image = np.asarray([[1, 2], [3, 4]], np.uint8)[..., None]
    assert augment(config(augmentation="pad_crop", pad=1), image, scripted(top, left))[..., 0].tolist() == expected


def test_pad_crop_reaches_every_place():
    settings, rng = config(augmentation="pad_crop", pad=1), np.random.default_rng(0)
    assert len({augment(settings, RAMP, rng).tobytes() for _ in range(300)}) == 9


def test_random_crop_reaches_every_place_and_no_other():
    rng = np.random.default_rng(0)
    crops = {random_crop(RAMP, 3, 7, rng).tobytes() for _ in range(100)}
    assert crops == {RAMP[top : top + 3, left : left + 7].tobytes() for top in (0, 1) for left in (0, 1)}
    assert random_crop(RAMP, 4, 8, rng).tobytes() == RAMP.tobytes()


def test_resize_crop_squeezes_to_a_square_and_cuts_at_a_random_place():
    settings = config(augmentation="resize_crop", resize=6, image_size=4)
    squeezed = resize(PHOTO, 6, 6)
    np.testing.assert_array_equal(augment(settings, PHOTO, scripted(2, 1)), squeezed[2:6, 1:5])
    rng = np.random.default_rng(0)
    assert len({augment(settings, PHOTO, rng).tobytes() for _ in range(200)}) == 9


def test_random_resized_crop_cuts_the_box_it_drew():
    square = np.arange(64, dtype=np.uint8).reshape(8, 8, 1)
    quarter = scripted(0.25, 0.0, 2, 3)  # a quarter of the area, aspect 1, from row 2, column 3
    np.testing.assert_array_equal(random_resized_crop(square, 4, 0.08, quarter), square[2:6, 3:7])
    wide = scripted(0.1875, math.log(4 / 3), 1, 0)  # 12 pixels, 4 wide and 3 high
    np.testing.assert_array_equal(random_resized_crop(square, 4, 0.08, wide), resize(square[1:4, :4], 4, 4))


def test_random_resized_crop_takes_the_centre_after_ten_misses():
    long = np.arange(200, dtype=np.uint8).reshape(1, 200, 1)
    assert random_resized_crop(long, 1, 0.08, scripted(*[1.0, 0.0] * 10)).tolist() == [[[99]]]
    # torchvision's largest box of aspect 3/4 to 4/3: 40 of 100 columns beside 30 rows, from 30 on; and upright
    wide = np.random.default_rng(0).integers(0, 256, (30, 100, 3), np.uint8)
    missed = random_resized_crop(wide, 12, 0.08, scripted(*[1.0, 0.0] * 10))
    np.testing.assert_array_equal(missed, resize(wide[:, 30:70], 12, 12))
    tall = wide.transpose(1, 0, 2)
    missed = random_resized_crop(tall, 12, 0.08, scripted(*[1.0, 0.0] * 10))
    np.testing.assert_array_equal(missed, resize(tall[30:70], 12, 12))


@pytest.mark.parametrize("least", [0.08, 0.5])
def test_random_resized_crop_draws_areas_and_aspects_as_imagenet_does(least: float):
    rows, columns = (np.broadcast_to(axis, (100, 100)) for axis in np.ogrid[:100, :100])
    places = np.stack([rows, columns, rows], axis=-1).astype(np.uint8)
    settings, rng = config(augmentation="random_resized_crop", image_size=2, min_area=least), np.random.default_rng(0)
    crops = np.stack([augment(settings, places, rng) for _ in range(500)]).astype(float)
    height, width = (2 * (crops[:, 1, 0, 0] - crops[:, 0, 0, 0]), 2 * (crops[:, 0, 1, 1] - crops[:, 0, 0, 1]))
    assert crops.shape == (500, 2, 2, 3)
    share, aspect = height * width / 1e4, width / height
    # the filter cuts off at the edges, so that a half is a little smaller than half of the box
    assert 0.5 * least < share.min() < 1.25 * least
    assert share.max() < 1
    assert abs(np.log(aspect)).max() < math.log(4 / 3) + 0.3
    assert abs(np.log(aspect).mean()) < 0.05


def test_rotate_turns_by_an_angle_within_the_limit():
    square = np.asarray([[1, 2], [3, 4]], np.uint8)[..., None]
    quarter = augment(config(rotate=180.0), square, scripted(90.0))
    assert quarter[..., 0].tolist() == [[2, 4], [1, 3]]  # against the clock
    line = np.zeros((31, 31, 1), np.uint8)
    line[15] = 200
    rng = np.random.default_rng(0)
    for _ in range(50):
        turned = augment(config(rotate=20.0), line, rng)[..., 0]
        rows, columns = np.nonzero(turned > 100)
        slope = np.polyfit(columns - 15, rows - 15, 1)[0]
        assert abs(math.degrees(math.atan(slope))) < 21
        assert turned[15, 15] == 200


def test_color_jitter_changes_brightness_contrast_and_saturation():
    image = np.asarray([[[100, 50, 0], [20, 20, 20]]], np.uint8)
    luma = round(0.299 * 100 + 0.587 * 50)  # 59
    mean = round((luma + 20) / 2)
    order = {"brightness": (0, 1, 2), "contrast": (1, 0, 2), "saturation": (2, 0, 1)}
    expected = {
        "brightness": image * 0.5,
        "contrast": mean + 0.5 * (image.astype(float) - mean),
        "saturation": np.asarray([[[luma] * 3, [20] * 3]]) * 0.5 + image * 0.5,
    }
    for name, (first, second, third) in order.items():
        changed = color_jitter(image, 0.5, scripted(first, second, third, 0.5, 1.0, 1.0))
        np.testing.assert_allclose(changed.astype(float), expected[name], atol=1)


def test_color_jitter_keeps_to_the_order_it_drew():
    pair = np.asarray([[[0] * 3, [240] * 3]], np.uint8)
    brighter_first = color_jitter(pair, 0.5, scripted(0, 1, 2, 1.5, 0.5, 1.0))
    assert brighter_first[0, :, 0].tolist() == [64, 191]  # 0 and 255, then half way to their mean of 128
    paler_first = color_jitter(pair, 0.5, scripted(1, 2, 0, 0.5, 1.0, 1.5))
    assert paler_first[0, :, 0].tolist() == [90, 255]  # 60 and 180, then half as bright again


def test_color_jitter_draws_factors_up_to_its_strength():
    flat, rng = np.full((1, 1, 1), 100, np.uint8), np.random.default_rng(0)
    values = [int(color_jitter(flat, 0.4, rng)[0, 0, 0]) for _ in range(500)]
    assert (min(values), max(values)) == (60, 139)


def test_rand_augment_has_the_fourteen_operations_of_the_paper_and_draws_all():
    assert len(OPERATIONS) == len(NAMES) == 14
    rng = np.random.default_rng(0)
    given = {rand_augment(PHOTO, 1, 30, rng).tobytes() for _ in range(1000)}
    whole = {apply(name, PHOTO, sign).tobytes() for name in NAMES for sign in (-1.0, 1.0)}
    assert given == whole


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"autocontrast", "equalize", "solarize"}))
def test_an_operation_of_no_strength_changes_nothing(name: str):
    for image in (PHOTO, RAMP):
        np.testing.assert_array_equal(apply(name, image, 0.0), image)


def test_operations_of_colour_do_what_their_names_say():
    values = np.asarray([[0, 85, 170, 255]], np.uint8)[..., None]
    assert apply("posterize", values, 1.0)[..., 0].tolist() == [[0, 80, 160, 240]]  # the upper 4 bits
    assert apply("posterize", values, -0.5)[..., 0].tolist() == [[0, 84, 168, 252]]
    assert apply("solarize", values, 0.5)[..., 0].tolist() == [[0, 85, 85, 0]]  # from 127.5 on
    near = np.asarray([[178, 179, 203, 204, 254, 255]], np.uint8)[..., None]
    for strength, inverted in ((0.0, 5), (0.2, 3), (0.3, 1)):  # from 255, 204 and 178.5 on
        expected = [*near[0, :inverted, 0], *(255 - near[0, inverted:, 0])]
        assert apply("solarize", near, strength)[0, :, 0].tolist() == expected
    assert apply("brightness", values, 1.0)[..., 0].tolist() == [[0, 161, 255, 255]]
    assert apply("brightness", values, -1.0)[..., 0].tolist() == [[0, 8, 17, 25]]
    np.testing.assert_allclose(apply("contrast", values, -1.0)[0, :, 0], [115, 123, 132, 140], atol=1)
    assert apply("autocontrast", values // 5, 1.0)[..., 0].tolist() == values[..., 0].tolist()
    crowded = np.repeat(np.arange(16, dtype=np.uint8), 170).reshape(16, 170, 1)
    assert apply("equalize", crowded, 1.0)[:, 0, 0].tolist() == list(range(0, 256, 17))
    gray = apply("color", PHOTO, -1.0).astype(int)
    assert np.ptp(gray, axis=-1).max() <= 0.1 * 255 + 1
    np.testing.assert_array_equal(apply("color", RAMP, 1.0), RAMP)
    assert np.std(apply("sharpness", PHOTO, -1.0)) < np.std(PHOTO) < np.std(apply("sharpness", PHOTO, 1.0))


@pytest.mark.parametrize(
    ("name", "move"),
    [
        ("shear_x", lambda rows, columns: (rows, columns + 0.3 * (rows + 0.5))),
        ("shear_y", lambda rows, columns: (rows + 0.3 * (columns + 0.5), columns)),
        ("translate_x", lambda rows, columns: (rows, columns - 45)),
        ("translate_y", lambda rows, columns: (rows - 45, columns)),
    ],
)
def test_operations_of_place_move_pixels_as_far_as_they_should(name: str, move: Callable[..., Any]):
    rows, columns = np.indices((100, 100)).astype(float)
    image = np.stack([rows, columns, np.full_like(rows, 255)], axis=-1).astype(np.uint8)
    moved = apply(name, image, 1.0).astype(float)
    seen = moved[..., 2] == 255
    expected = np.stack(move(rows, columns), axis=-1)
    assert seen.mean() > 0.5
    np.testing.assert_allclose(moved[..., :2][seen], expected[seen], atol=1)
    inside = ((expected >= 1) & (expected <= 98)).all(axis=-1)
    assert seen[inside].all()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", [(1, 1), (5, 9), (28, 28)])
def test_every_change_gives_bytes_of_the_same_shape_and_follows_from_the_seed(shape: tuple[int, int], channels: int):
    image = np.random.default_rng(1).integers(0, 256, (*shape, channels), np.uint8)
    before = image.copy()
    settings = config(
        augmentation="pad_crop",
        flip=True,
        rotate=15.0,
        color_jitter=0.4,
        rand_augment_layers=3,
    )
    for seed in range(30):
        one, two = (augment(settings, image, np.random.default_rng(seed)) for _ in range(2))
        assert (one.dtype, one.shape) == (np.uint8, image.shape)
        np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(image, before)
