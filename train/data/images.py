"""Image files and arrays: decoding, resizing, cropping. uint8 (h, w, c) throughout.

Pillow decodes and resizes, with antialiasing, as the pipelines that the published figures come from.
"""

from __future__ import annotations

from typing import BinaryIO, Literal

import numpy as np
from PIL import Image, ImageOps

from train.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


class UnreadableImageError(UserError):
    """A file that is no image or a damaged one."""


def read_image(path: str, apply_exif_orientation: bool = True) -> np.ndarray:
    """Decodes a file to RGB: gray and palette images are converted, 16 bits become 8, and alpha is dropped.

    Raises:
      UnreadableImageError: the file is missing, no image, or damaged; the message names it.
    """
    return decode(path, path, apply_exif_orientation)


def decode(
    file: str | BinaryIO, name: str, apply_exif_orientation: bool = False, channels: Literal[1, 3] = 3
) -> np.ndarray:
    """Decodes a file, or its contents, to gray or RGB as `read_image` does; messages name it."""
    try:
        with Image.open(file) as image:
            upright = ImageOps.exif_transpose(image) if apply_exif_orientation else image
            if upright.mode.startswith("I;16"):
                upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
            opaque = upright.convert("RGBA").convert("RGB") if upright.mode == "P" else upright
            pixels = np.asarray(opaque.convert("L" if channels == 1 else "RGB"))
            return pixels.reshape(*pixels.shape[:2], channels)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or str(error).replace(repr(file), "it") or type(error).__name__
        raise UnreadableImageError(f"cannot read image {name}: {reason}") from error


def set_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """Turns (h, w, 1 or 3) into (h, w, channels); gray is the luma of ITU-R 601."""
    if image.shape[-1] == channels:
        return image
    if channels == 3:
        return np.repeat(image, 3, axis=-1)
    return np.asarray(Image.fromarray(image).convert("L"))[..., None]


def resize(
    image: np.ndarray, height: int, width: int, box: tuple[float, float, float, float] | None = None
) -> np.ndarray:
    """Resizes an image, or its box (left, top, right, bottom), bilinearly with antialiasing."""
    if box is None and image.shape[:2] == (height, width):
        return image
    flat = image[..., 0] if image.shape[-1] == 1 else image
    resized = Image.fromarray(flat).resize((width, height), Image.Resampling.BILINEAR, box)
    return np.asarray(resized).reshape(height, width, image.shape[-1])


def resize_and_crop(image: np.ndarray, shorter_side: int, size: int) -> np.ndarray:
    """Resizes to a shorter side, keeping the aspect ratio, and cuts a square out of the centre."""
    return _scale_and_crop(image, shorter_side / min(image.shape[:2]), size, size)


def squeeze_and_crop(image: np.ndarray, side: int, size: int) -> np.ndarray:
    """Resizes to a square, whatever the aspect ratio, and cuts a smaller one out of the centre."""
    return _crop_centre(resize(image, side, side), size, size)


def fill(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes to cover a rectangle, keeping the aspect ratio, and cuts it out of the centre."""
    return _scale_and_crop(image, max(height / image.shape[0], width / image.shape[1]), height, width)


def _scale_and_crop(image: np.ndarray, scale: float, height: int, width: int) -> np.ndarray:
    scaled = resize(
        image, *(max(least, round(side * scale)) for side, least in zip(image.shape, (height, width), strict=False))
    )
    return _crop_centre(scaled, height, width)


def _crop_centre(image: np.ndarray, height: int, width: int) -> np.ndarray:
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width]
