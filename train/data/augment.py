"""Random augmentation of training images, uint8 (h, w, 1 or 3) in and out, with Pillow's own operations.

Pillow is what the papers' pipelines computed with, and decodes the images anyway; an augmentation library would add its
own kernels, random draws and releases for a few lines on top of Pillow.

To add an augmentation, write a function of the settings, an image and a generator, and enter it in `AUGMENTATIONS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from train.config import DataConfig
from train.config.errors import UserError, nearest
from train.data.images import resize, resize_and_crop

_AFFINE, _BILINEAR = Image.Transform.AFFINE, Image.Resampling.BILINEAR


def augment(config: DataConfig, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Augments a training image: `data.augmentation`, then flip, rotate, rand_augment and color_jitter, in this order.

    Args:
      config: the settings.
      image: uint8 (h, w, c).
      rng: source of all random numbers.

    Returns:
      uint8 (image_size, image_size, c), or (h, w, c) without an image_size.
    """
    for name in _names(config):
        image = AUGMENTATIONS[name].apply(config, image, rng)
    image = _sized(config, image)
    if config.flip and rng.random() < 0.5:
        image = image[:, ::-1]
    if config.rotate:
        image = _array(_rotate(_picture(image), rng.uniform(-config.rotate, config.rotate)))
    if config.rand_augment_layers:
        image = rand_augment(image, config.rand_augment_layers, config.rand_augment_magnitude, rng)
    if config.color_jitter:
        image = color_jitter(image, config.color_jitter, rng)
    return image


def check_augmentation(config: DataConfig) -> None:
    """Checks `data.augmentation`.

    Raises:
      UserError: there is no such augmentation (the message gives the nearest), or it needs a setting that is None.
    """
    for name in _names(config):
        if name not in AUGMENTATIONS:
            *others, last = AUGMENTATIONS
            allowed = f"{', '.join(others)} or {last}, or several joined by +{nearest(name, AUGMENTATIONS)}"
            raise UserError(f"data.augmentation={config.augmentation!r} must be {allowed}")
        for setting in AUGMENTATIONS[name].needs:
            if getattr(config, setting) is None:
                raise UserError(f"data.augmentation={config.augmentation!r} needs data.{setting}")


def squeezes(config: DataConfig) -> bool:
    """Whether images are resized to squares of `data.resize`, in training and for the test."""
    return "resize_crop" in _names(config)


def _names(config: DataConfig) -> list[str]:
    return config.augmentation.split("+")


def _sized(config: DataConfig, image: np.ndarray) -> np.ndarray:
    """Resizes and crops to `data.image_size`; an image of that size, or any where it is None, stays as it is."""
    size = config.image_size
    return image if size is None else resize_and_crop(image, size, size)


def _pad_crop(config: DataConfig, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    image, pad = _sized(config, image), config.pad
    height, width, channels = image.shape
    padded = np.zeros((height + 2 * pad, width + 2 * pad, channels), np.uint8)
    padded[pad : pad + height, pad : pad + width] = image
    return random_crop(padded, height, width, rng)


def _random_resized_crop(config: DataConfig, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    assert config.image_size is not None
    return random_resized_crop(image, config.image_size, config.min_area, rng)


def _resize_crop(config: DataConfig, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    assert config.image_size is not None
    assert config.resize is not None
    return random_crop(resize(image, config.resize, config.resize), config.image_size, config.image_size, rng)


class Augmentation(NamedTuple):
    """An augmentation.

    Attributes:
      apply: from the settings, an image and a generator to the augmented image, uint8 (h, w, c) in and out.
      needs: settings of the data that must not be None.
    """

    apply: Callable[[DataConfig, np.ndarray, np.random.Generator], np.ndarray]
    needs: tuple[str, ...] = ()


AUGMENTATIONS = {
    "none": Augmentation(lambda config, image, rng: _sized(config, image)),
    "pad_crop": Augmentation(_pad_crop),
    "random_resized_crop": Augmentation(_random_resized_crop, needs=("image_size",)),
    "resize_crop": Augmentation(_resize_crop, needs=("image_size", "resize")),
}
"""By name, for `data.augmentation`. Where the result has not `data.image_size`, it is resized and cropped to it."""


def random_crop(image: np.ndarray, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Crops a rectangle at a random position."""
    top, left = rng.integers(0, (image.shape[0] - height + 1, image.shape[1] - width + 1))
    return image[top : top + height, left : left + width]


def random_resized_crop(image: np.ndarray, size: int, min_area: float, rng: np.random.Generator) -> np.ndarray:
    """Crops a random box of min_area to 1 of the area and aspect ratio 3/4 to 4/3, and resizes it to a square.

    After 10 boxes that do not fit it takes the largest one of such an aspect ratio in the centre, as torchvision does.
    Szegedy et al., Going Deeper with Convolutions, 2015.
    """
    height, width = image.shape[:2]
    for _ in range(10):
        area = height * width * rng.uniform(min_area, 1.0)
        ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            top, left = int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1))
            return resize(image[top : top + h, left : left + w], size, size)
    w, h = min(width, round(height * (4 / 3))), min(height, round(width / (3 / 4)))
    top, left = (height - h) // 2, (width - w) // 2
    return resize(image[top : top + h, left : left + w], size, size)


def color_jitter(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Scales brightness, contrast and saturation by factors from 1 - strength to 1 + strength, in random order."""
    picture = _picture(image)
    kinds = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    for index in rng.permutation(len(kinds)):
        picture = kinds[index](picture).enhance(rng.uniform(1 - strength, 1 + strength))
    return _array(picture)


def rand_augment(image: np.ndarray, layers: int, magnitude: int, rng: np.random.Generator) -> np.ndarray:
    """Applies `layers` of 14 operations, drawn with replacement, at a magnitude of at most 30 and a random sign.

    Cubuk et al., RandAugment, 2020, with torchvision's ranges and centres. Rotations and shears interpolate bilinearly,
    where torchvision takes the nearest pixel.
    """
    picture = _picture(image)
    for _ in range(layers):
        operation = OPERATIONS[rng.integers(len(OPERATIONS))]
        picture = operation(picture, math.copysign(magnitude / 30, rng.random() - 0.5))
    return _array(picture)


def _enhance(kind: Callable[[Image.Image], ImageEnhance._Enhance]) -> Callable[[Image.Image, float], Image.Image]:
    return lambda picture, strength: kind(picture).enhance(1 + 0.9 * strength)


def _rotate(picture: Image.Image, degrees: float) -> Image.Image:
    return picture.rotate(degrees, _BILINEAR)


def _shear_x(picture: Image.Image, slope: float) -> Image.Image:
    return picture.transform(picture.size, _AFFINE, (1, slope, 0, 0, 1, 0), _BILINEAR)


def _shear_y(picture: Image.Image, slope: float) -> Image.Image:
    return picture.transform(picture.size, _AFFINE, (1, 0, 0, slope, 1, 0), _BILINEAR)


def _translate(picture: Image.Image, right: int, down: int) -> Image.Image:
    return picture.transform(picture.size, _AFFINE, (1, 0, -right, 0, 1, -down), _BILINEAR)


OPERATIONS: tuple[Callable[[Image.Image, float], Image.Image], ...] = (
    lambda picture, strength: picture,
    lambda picture, strength: ImageOps.autocontrast(picture),
    lambda picture, strength: ImageOps.equalize(picture),
    lambda picture, strength: ImageOps.posterize(picture, 8 - round(4 * abs(strength))),
    lambda picture, strength: ImageOps.solarize(picture, math.ceil(255 * (1 - abs(strength)))),
    _enhance(ImageEnhance.Brightness),
    _enhance(ImageEnhance.Contrast),
    _enhance(ImageEnhance.Color),
    _enhance(ImageEnhance.Sharpness),
    lambda picture, strength: _rotate(picture, 30 * strength),
    lambda picture, strength: _shear_x(picture, 0.3 * strength),
    lambda picture, strength: _shear_y(picture, 0.3 * strength),
    lambda picture, strength: _translate(picture, int(150 / 331 * strength * picture.width), 0),
    lambda picture, strength: _translate(picture, 0, int(150 / 331 * strength * picture.height)),
)
"""RandAugment's operations, functions of a picture and a strength from -1 to 1, in the ranges of AutoAugment."""


def _picture(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def _array(picture: Image.Image) -> np.ndarray:
    image = np.asarray(picture)
    return image[..., None] if image.ndim == 2 else image
