"""Resizing of images, boxes and masks to the sizes that detectors are trained with, on the host."""

from __future__ import annotations

from typing import Literal

import numpy as np

from attnjax._choice import check_choice


def resized_size(
    size: tuple[int, int], short: int, long: int, *, rounding: Literal["nearest", "down"] = "nearest"
) -> tuple[int, int]:
    """The size of an image whose shorter side is `short`, or whose longer side is `long` where that is smaller.

    Args:
      size: height and width.
      short, long: in pixels.
      rounding: `"nearest"` is mmdetection's int(x + 0.5), `"down"` is torchvision's floor.

    Returns:
      Height and width.

    Example:
      >>> from attnjax.detection import resized_size
      >>> resized_size((375, 500), 800, 1333), resized_size((375, 500), 800, 1333, rounding="down")
      ((800, 1067), (800, 1066))
    """
    check_choice("rounding", rounding, ("nearest", "down"))
    scale = min(short / min(size), long / max(size))
    half = 0.5 if rounding == "nearest" else 0.0
    height, width = (max(1, int(side * scale + half)) for side in size)
    return height, width


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes an image bilinearly, with the centres of pixels at halves and without antialiasing, as torch does.

    Args:
      image: floating (h, w, c).
      size: height and width.

    Returns:
      (*size, c), in the image's dtype.

    Example:
      >>> import numpy as np
      >>> from attnjax.detection import resize_image
      >>> resize_image(np.array([[[0.0], [4.0]]]), (1, 4)).ravel().tolist()
      [0.0, 1.0, 3.0, 4.0]
    """
    for axis in range(2):
        count = image.shape[axis]
        at = np.clip((np.arange(size[axis]) + 0.5) * (count / size[axis]) - 0.5, 0, count - 1)
        low = np.floor(at).astype(int)
        share = (at - low).astype(image.dtype).reshape((-1, *(1,) * (2 - axis)))
        near, far = (np.take(image, index, axis) for index in (low, np.minimum(low + 1, count - 1)))
        image = near * (1 - share) + far * share
    return image


def resize_masks(masks: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes masks to the nearest pixel towards the origin, in float32, as torch does.

    Args:
      masks: (k, h, w).
      size: height and width.

    Returns:
      (k, *size), in the masks' dtype.

    Example:
      >>> import numpy as np
      >>> from attnjax.detection import resize_masks
      >>> resize_masks(np.array([[[0, 1, 2]]]), (1, 2)).ravel().tolist()
      [0, 1]
    """
    rows, columns = (
        np.minimum((np.arange(n, dtype=np.float32) * np.float32(m / n)).astype(int), m - 1)
        for n, m in zip(size, masks.shape[1:], strict=True)
    )
    return masks[:, rows[:, None], columns[None]]


def scale_boxes(boxes: np.ndarray, size: tuple[int, int], target: tuple[int, int]) -> np.ndarray:
    """Boxes of an image of one size in the image of another, by the ratio of sizes along each axis.

    Args:
      boxes: floating (k, 4).
      size: height and width of the image they lie in.
      target: height and width of the other.

    Returns:
      (k, 4), in the boxes' dtype.

    Example:
      >>> import numpy as np
      >>> from attnjax.detection import scale_boxes
      >>> scale_boxes(np.array([[1.0, 1.0, 2.0, 2.0]]), (10, 10), (20, 30)).tolist()
      [[3.0, 2.0, 6.0, 4.0]]
    """
    down, right = (np.float32(b) / np.float32(a) for a, b in zip(size, target, strict=True))
    return boxes * np.array([right, down, right, down]).astype(boxes.dtype)
