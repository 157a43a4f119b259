"""Image files and arrays: decoding, resizing, cropping. uint8 (h, w, c) throughout.

Pillow decodes and resizes, with antialiasing, and sizes and offsets are rounded as in torchvision, like the pipelines
behind the published figures.
"""

from __future__ import annotations

from typing import BinaryIO, Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from train.config.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


class UnreadableImageError(UserError):
    """A file is no image, or damaged."""


def read_image(path: str, apply_exif_orientation: bool = True) -> np.ndarray:
    """Decodes a file to RGB: grey and palette images are converted, 16 bits become 8, and alpha is dropped.

    Raises:
      UnreadableImageError: the file is missing, no image, or damaged; the message names it.
    """
    return decode(path, path, apply_exif_orientation)


def decode(
    file: str | BinaryIO, name: str, apply_exif_orientation: bool = False, channels: Literal[1, 3] = 3
) -> np.ndarray:
    """Decodes a file, or its contents, to grey or RGB as `read_image` does; `name` stands in messages."""
    try:
        with Image.open(file) as image:
            upright = ImageOps.exif_transpose(image) if apply_exif_orientation else image
            if upright.mode.startswith("I;16"):
                upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
            opaque = upright.convert("RGBA").convert("RGB") if upright.mode == "P" else upright
            pixels = np.asarray(opaque.convert("L" if channels == 1 else "RGB"))
            return pixels.reshape(*pixels.shape[:2], channels)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        unknown = isinstance(error, UnidentifiedImageError) and "it is no image file"
        reason = unknown or getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UnreadableImageError(f"cannot read image {name}: {reason}") from error


def set_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """Converts (h, w, 1 or 3) to (h, w, channels); grey is the luma of ITU-R 601."""
    if image.shape[-1] == channels:
        return image
    if channels == 3:
        return np.repeat(image, 3, axis=-1)
    return np.asarray(Image.fromarray(image).convert("L"))[..., None]


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes an image bilinearly with antialiasing."""
    if image.shape[:2] == (height, width):
        return image
    flat = image[..., 0] if image.shape[-1] == 1 else image
    resized = Image.fromarray(flat).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized).reshape(height, width, image.shape[-1])


def cover(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes to the smallest image of the same aspect ratio that covers a rectangle; fractions are truncated."""
    if height * image.shape[1] >= width * image.shape[0]:
        return resize(image, height, int(height * image.shape[1] / image.shape[0]))
    return resize(image, int(width * image.shape[0] / image.shape[1]), width)


def resize_and_crop(image: np.ndarray, shorter_side: int, size: int) -> np.ndarray:
    """Resizes to a shorter side, keeping the aspect ratio, and crops a square of the centre."""
    return _crop_centre(cover(image, shorter_side, shorter_side), size, size)


def squeeze_and_crop(image: np.ndarray, side: int, size: int) -> np.ndarray:
    """Resizes to a square, whatever the aspect ratio, and crops a smaller one of the centre."""
    return _crop_centre(resize(image, side, side), size, size)


def fill(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes to cover a rectangle, keeping the aspect ratio, and crops it from the centre."""
    return _crop_centre(cover(image, height, width), height, width)


def centre_offset(length: int, part: int) -> int:
    """Offset of a centred part; halves are rounded to even, as in torchvision."""
    return round((length - part) / 2)


def _crop_centre(image: np.ndarray, height: int, width: int) -> np.ndarray:
    top, left = centre_offset(image.shape[0], height), centre_offset(image.shape[1], width)
    return image[top : top + height, left : left + width]
