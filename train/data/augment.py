"""Random changes of training images, uint8 (h, w, 1 or 3) in and out, with Pillow's own operations.

Pillow is what the papers' pipelines computed with, and it is here to decode anyway; an augmentation library would
bring its own kernels, draws and release dates for what is a few lines on top of Pillow.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from train.config import DataConfig
from train.data.images import resize, resize_and_crop

_AFFINE, _BILINEAR = Image.Transform.AFFINE, Image.Resampling.BILINEAR


def augment(config: DataConfig, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Changes a training image as the settings say: crop, flip, rotate, RandAugment, colours, in this order."""
    image = _crop(config, image, rng)
    if config.flip and rng.random() < 0.5:
        image = image[:, ::-1]
    if config.rotate:
        image = _array(_rotate(_picture(image), rng.uniform(-config.rotate, config.rotate)))
    if config.rand_augment_layers:
        image = rand_augment(image, config.rand_augment_layers, config.rand_augment_magnitude, rng)
    if config.color_jitter:
        image = color_jitter(image, config.color_jitter, rng)
    return image


def _crop(config: DataConfig, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    size = config.image_size
    if size is not None and config.augmentation == "random_resized_crop":
        return random_resized_crop(image, size, config.min_area, rng)
    if size is not None and config.augmentation == "resize_crop":
        return random_crop(resize(image, config.resize or size, config.resize or size), size, size, rng)
    if size is not None:
        image = resize_and_crop(image, size, size)
    if config.augmentation == "pad_crop":
        height, width, channels = image.shape
        padded = np.zeros((height + 2 * config.pad, width + 2 * config.pad, channels), np.uint8)
        padded[config.pad : config.pad + height, config.pad : config.pad + width] = image
        return random_crop(padded, height, width, rng)
    return image


def random_crop(image: np.ndarray, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Cuts a rectangle out at a random place."""
    top, left = rng.integers(0, (image.shape[0] - height + 1, image.shape[1] - width + 1))
    return image[top : top + height, left : left + width]


def random_resized_crop(image: np.ndarray, size: int, min_area: float, rng: np.random.Generator) -> np.ndarray:
    """A random box of min_area to 1 of the area and aspect 3/4 to 4/3, resized to a square.

    After 10 misses it is the largest box of such an aspect in the centre. Szegedy et al., Going Deeper with
    Convolutions, 2015, as torchvision has it.
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
    """Brightness, contrast and saturation by factors from 1 - strength to 1 + strength, in random order."""
    picture = _picture(image)
    kinds = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    for place in rng.permutation(len(kinds)):
        picture = kinds[place](picture).enhance(rng.uniform(1 - strength, 1 + strength))
    return _array(picture)


def rand_augment(image: np.ndarray, layers: int, magnitude: int, rng: np.random.Generator) -> np.ndarray:
    """So many of 14 operations, drawn with replacement, at a strength of at most 30 and a random sign.

    Cubuk et al., RandAugment, 2020, with torchvision's ranges and places. Pixels that are turned or sheared are
    interpolated bilinearly, where torchvision takes the nearest.
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
"""RandAugment's operations, each of a picture and its strength, from -1 to 1, in the ranges of AutoAugment."""


def _picture(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def _array(picture: Image.Image) -> np.ndarray:
    image = np.asarray(picture)
    return image[..., None] if image.ndim == 2 else image
