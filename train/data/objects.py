"""Images with objects: boxes, classes and masks, as the annotation formats are read."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from train.data.images import UnreadableImageError, read_image


@dataclasses.dataclass(frozen=True)
class AnnotatedImage:
    """An image with its objects.

    Attributes:
      path: file of the image.
      image_id: its id in results.
      size: height and width.
      boxes: x1, y1, x2, y2 in pixels, float32 (k, 4), within the image.
      labels: classes from 0, int32 (k,).
      segmentations: polygons or run lengths of each object, as COCO stores them; None where it has none.
    """

    path: str
    image_id: int
    size: tuple[int, int]
    boxes: np.ndarray
    labels: np.ndarray
    segmentations: tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class ObjectImages:
    """Images with objects, random access.

    Attributes:
      source: the annotation file or folder.
      images: those whose file exists.
      class_names: names of the classes, by label.
      category_ids: ids of the classes in results, by label; COCO's have gaps.
      ground_truth: the objects as the contents of a COCO annotation file, crowds and difficult ones included.
      left_out: how many images or objects were left out or changed, by reason.
      read_masks: from an image to the masks of its objects, 0 and 1, uint8 (k, h, w).
    """

    source: str
    images: tuple[AnnotatedImage, ...]
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    ground_truth: Mapping[str, Any]
    left_out: Mapping[str, int]
    read_masks: Callable[[AnnotatedImage], np.ndarray]

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int, apply_exif_orientation: bool = True) -> np.ndarray:
        """Decodes an image, uint8 (h, w, 3).

        Raises:
          UnreadableImageError: it cannot be decoded, or has not the size of its annotation.
        """
        image = self.images[index]
        pixels = read_image(image.path, apply_exif_orientation)
        if pixels.shape[:2] != image.size and apply_exif_orientation:
            pixels = read_image(image.path, False)  # annotated as stored
        if pixels.shape[:2] != image.size:
            found, wanted = ("x".join(map(str, size)) for size in (pixels.shape[:2], image.size))
            raise UnreadableImageError(f"{image.path} has {found} pixels, but {wanted} in {self.source}")
        return pixels

    def name(self, index: int) -> str:
        """Names an image in messages."""
        return self.images[index].path

    def select(self, indices: Sequence[int]) -> ObjectImages:
        """Some of the images, with their part of the ground truth."""
        images = tuple(self.images[index] for index in indices)
        kept = {image.image_id for image in images}
        truth = {
            **self.ground_truth,
            "images": [image for image in self.ground_truth["images"] if image["id"] in kept],
            "annotations": [entry for entry in self.ground_truth["annotations"] if entry["image_id"] in kept],
        }
        return dataclasses.replace(self, images=images, ground_truth=truth)

    def print_notes(self) -> None:
        """Prints one line that counts what was left out, if anything was."""
        if self.left_out:
            counts = ", ".join(f"{count} {reason}" for reason, count in self.left_out.items())
            print(f"note: {self.source}: {counts}", file=sys.stderr)
