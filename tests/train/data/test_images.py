"""Image files become RGB bytes whatever they are; resizing, cropping and augmentation, by numbers."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from train.data.images import (
    UnreadableImageError,
    centre_offset,
    cover,
    fill,
    read_image,
    resize,
    resize_and_crop,
    set_channels,
    squeeze_and_crop,
)

RAMP = np.arange(32, dtype=np.uint8).reshape(4, 8, 1)


def saved(path: Path, image: Image.Image, **options: Any) -> str:
    image.save(path, **options)
    return str(path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_colour_files_are_read_as_rgb(tmp_path: Path, suffix: str):
    exact = {"webp": {"lossless": True}, "jpg": {"quality": 100, "subsampling": 0}}.get(suffix, {})
    colour = np.full((4, 6, 3), (200, 100, 50), np.uint8)
    read = read_image(saved(tmp_path / f"x.{suffix}", Image.fromarray(colour), **exact))
    assert (read.dtype, read.shape) == (np.uint8, (4, 6, 3))
    np.testing.assert_allclose(read.astype(int), colour.astype(int), atol=2 if suffix == "jpg" else 0)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_gray_files_become_rgb(tmp_path: Path, suffix: str):
    read = read_image(saved(tmp_path / f"x.{suffix}", Image.new("L", (6, 4), 77)))
    assert (read.dtype, read.shape) == (np.uint8, (4, 6, 3))
    np.testing.assert_allclose(read, 77, atol=1)


def test_bilevel_files_become_black_and_white(tmp_path: Path):
    bits = Image.fromarray(np.asarray([[0, 255], [255, 0]], np.uint8)).convert("1")
    assert read_image(saved(tmp_path / "x.png", bits))[..., 1].tolist() == [[0, 255], [255, 0]]


@pytest.mark.parametrize("options", [{}, {"transparency": 1}])
def test_palette_files_become_the_colours_of_the_palette(tmp_path: Path, options: dict[str, int]):
    image = Image.fromarray(np.asarray([[0, 1]], np.uint8)).convert("P")
    image.putpalette([10, 20, 30, 40, 50, 60])
    assert read_image(saved(tmp_path / "x.png", image, **options)).tolist() == [[[10, 20, 30], [40, 50, 60]]]


@pytest.mark.parametrize(("mode", "pixel", "rgb"), [("RGBA", (9, 8, 7, 3), [9, 8, 7]), ("LA", (9, 3), [9, 9, 9])])
def test_alpha_is_dropped(tmp_path: Path, mode: str, pixel: tuple[int, ...], rgb: list[int]):
    assert read_image(saved(tmp_path / "x.png", Image.new(mode, (1, 1), pixel))).tolist() == [[rgb]]


def test_16_bit_gray_becomes_its_upper_8_bits(tmp_path: Path):
    image = Image.fromarray(np.asarray([[0, 0x1234, 0xFFFF]], np.uint16))
    assert read_image(saved(tmp_path / "x.png", image)).tolist() == [[[0] * 3, [0x12] * 3, [0xFF] * 3]]


def test_cmyk_jpeg_becomes_rgb(tmp_path: Path):
    read = read_image(saved(tmp_path / "x.jpg", Image.new("CMYK", (2, 2), (0, 0, 0, 255)), quality=100))
    assert read.shape == (2, 2, 3)
    assert read.max() <= 2


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_exif_orientation_is_applied_or_not(tmp_path: Path, suffix: str):
    stored = np.zeros((8, 16, 3), np.uint8)
    stored[:, :8] = 255  # left half white; orientation 6 turns it to the top
    exif = Image.Exif()
    exif[0x0112] = 6
    path = saved(tmp_path / f"x.{suffix}", Image.fromarray(stored), exif=exif)
    upright, as_stored = read_image(path), read_image(path, apply_exif_orientation=False)
    assert (upright.shape, as_stored.shape) == ((16, 8, 3), (8, 16, 3))
    assert upright[:7].min() > 200
    assert upright[9:].max() < 50
    assert as_stored[:, :7].min() > 200


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
@pytest.mark.parametrize("keep", [0.0, 0.1, 0.7])
def test_a_file_cut_short_is_unreadable_and_named(tmp_path: Path, suffix: str, keep: float):
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    path = tmp_path / f"x.{suffix}"
    data = Path(saved(path, Image.fromarray(noise))).read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(UnreadableImageError, match=f"cannot read image {re.escape(str(path))}: ."):
        read_image(str(path))


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_damaged_bytes_give_an_image_or_are_unreadable(tmp_path: Path, suffix: str):
    rng = np.random.default_rng(0)
    path = tmp_path / f"x.{suffix}"
    data = bytearray(Path(saved(path, Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)))).read_bytes())
    for _ in range(200):
        damaged = bytearray(data)
        for place in rng.integers(0, len(data), 3):
            damaged[place] = rng.integers(0, 256)
        path.write_bytes(damaged)
        with contextlib.suppress(UnreadableImageError):
            assert read_image(str(path)).shape[-1] == 3


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(UnreadableImageError, match=f"cannot read image {tmp_path}/none.png: No such file or directory"):
        read_image(str(tmp_path / "none.png"))


def test_set_channels_repeats_gray_and_weighs_colours():
    assert set_channels(RAMP, 1) is RAMP
    np.testing.assert_array_equal(set_channels(RAMP, 3), np.repeat(RAMP, 3, axis=-1))
    colours = np.asarray([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [10, 10, 10]]], np.uint8)
    assert set_channels(colours, 1).tolist() == [[[76], [150], [29], [10]]]


def test_resize_filters_when_it_shrinks():
    steps = np.repeat(np.asarray([[0, 0, 100, 100]], np.uint8), 4, axis=0)[..., None]
    small = resize(steps, 2, 2)  # a triangle 4 wide: (100 * 0.25) / (0.75 + 0.75 + 0.25) = 14.29
    assert small[..., 0].tolist() == [[14, 86]] * 2


@pytest.mark.parametrize(
    ("shape", "sides", "covered"),
    [
        ((427, 640), (256, 256), (256, 383)),  # 383.70
        ((640, 427), (256, 256), (383, 256)),
        ((334, 500), (256, 256), (256, 383)),  # 383.23
        ((500, 375), (256, 256), (341, 256)),  # 341.33
        ((256, 300), (256, 256), (256, 300)),
        ((30, 50), (8, 9), (8, 13)),
        ((30, 50), (8, 20), (12, 20)),
    ],
)
def test_cover_cuts_fractions_off_as_torchvision_does(
    shape: tuple[int, int], sides: tuple[int, int], covered: tuple[int, int]
):
    assert cover(np.zeros((*shape, 3), np.uint8), *sides).shape == (*covered, 3)


def test_the_centre_begins_where_it_does_in_torchvision():
    # (383 - 224) / 2 = 79.5 goes to 80, (341 - 224) / 2 = 58.5 to 58, (256 - 224) / 2 is 16
    assert [centre_offset(side, 224) for side in (383, 341, 256, 224)] == [80, 58, 16, 0]
    wide = np.random.default_rng(0).integers(0, 256, (334, 500, 3), np.uint8)
    np.testing.assert_array_equal(resize_and_crop(wide, 256, 224), resize(wide, 256, 383)[16:240, 80:304])


def test_resize_and_crop_cuts_the_centre():
    np.testing.assert_array_equal(resize_and_crop(RAMP, 4, 4), RAMP[:, 2:6])
    np.testing.assert_array_equal(resize_and_crop(RAMP, 4, 2), RAMP[1:3, 3:5])


@pytest.mark.parametrize("shape", [(4, 8, 1), (9, 5, 3), (1, 30, 3), (7, 7, 1), (333, 500, 3)])
@pytest.mark.parametrize(("shorter", "size"), [(6, 5), (5, 5), (224, 224)])
def test_resize_and_crop_gives_the_size_for_every_shape(shape: tuple[int, int, int], shorter: int, size: int):
    cropped = resize_and_crop(np.full(shape, 7, np.uint8), shorter, size)
    assert (cropped.dtype, cropped.shape) == (np.uint8, (size, size, shape[-1]))
    np.testing.assert_array_equal(cropped, 7)


def test_squeeze_and_crop_changes_the_aspect_ratio():
    pairs = np.repeat(np.asarray([[0, 0, 40, 40, 80, 80, 120, 120]], np.uint8), 4, axis=0)[..., None]
    np.testing.assert_array_equal(squeeze_and_crop(pairs, 4, 2), resize(pairs, 4, 4)[1:3, 1:3])
    assert squeeze_and_crop(np.zeros((9, 5, 3), np.uint8), 7, 6).shape == (6, 6, 3)


def test_fill_covers_a_rectangle_and_cuts_the_centre():
    np.testing.assert_array_equal(fill(RAMP, 4, 2), RAMP[:, 3:5])
    assert fill(np.full((30, 50, 3), 7, np.uint8), 8, 9).shape == (8, 9, 3)
