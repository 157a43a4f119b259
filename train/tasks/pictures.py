"""Detections as files: pictures with boxes, masks, classes and scores, and COCO's JSON."""

from __future__ import annotations

import colorsys
import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from train.config.atomic import replacing
from train.config.errors import UserError
from train.tasks.coco_results import run_lengths

_OPACITY = 0.45
"""Of masks."""
_SMALLEST = 512
"""Longer side in pixels to which smaller images are enlarged, so that text can be read."""


def draw_objects(
    image: np.ndarray,
    boxes: np.ndarray,
    names: Sequence[str],
    labels: Sequence[int],
    masks: np.ndarray | None = None,
) -> Image.Image:
    """Draws objects on an image.

    Args:
      image: uint8 (h, w, 3).
      boxes: in its pixels, (k, 4).
      names: what is written at each box.
      labels: classes, which decide the colours.
      masks: bool (k, h, w); None for none.

    Returns:
      A picture of the image's size, or enlarged by an integer factor.
    """
    factor = max(1, _SMALLEST // max(image.shape[:2]))
    pixels = image.astype(np.float32)
    for label, mask in zip(labels, () if masks is None else masks, strict=False):
        pixels[mask] = (1 - _OPACITY) * pixels[mask] + _OPACITY * np.array(_colour(label), np.float32)
    height, width = image.shape[:2]
    picture = Image.fromarray(pixels.astype(np.uint8)).resize((width * factor, height * factor))
    draw = ImageDraw.Draw(picture)
    line, font = max(1, max(picture.size) // 400), ImageFont.load_default(max(11, max(picture.size) // 50))
    for box, label in zip(boxes, labels, strict=True):
        draw.rectangle((box * factor).tolist(), outline=_colour(label), width=line)
    for box, name, label in zip(boxes, names, labels, strict=True):
        left, top, right, bottom = draw.textbbox((0, 0), name, font=font)
        x = min(box[0] * factor, picture.width - right)
        y = max(box[1] * factor - bottom, 0)
        draw.rectangle((x + left, y + top, x + right, y + bottom), fill=_colour(label))
        draw.text((x, y), name, fill=(0, 0, 0), font=font)
    return picture


def _colour(label: int) -> tuple[int, int, int]:
    """A light colour for each class; neighbouring classes have hues far apart."""
    red, green, blue = colorsys.hsv_to_rgb((label * 0.618034) % 1.0, 0.7, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


class DetectionWriter:
    """Writes a picture of each image, and predictions.json: a COCO file whose annotations have a `score`.

    Args:
      folder: created if missing.
      class_names: names of the classes, which become categories 1, 2, ...
      inputs: the image files.

    Raises:
      UserError: a picture would replace one of the image files, or the folder cannot be written.
    """

    def __init__(self, folder: str, class_names: Sequence[str], inputs: Sequence[str]) -> None:
        self._folder, self._names = folder, class_names
        categories = [{"id": number, "name": name} for number, name in enumerate(class_names, 1)]
        self._content: dict[str, list[Any]] = {"images": [], "categories": categories, "annotations": []}
        self._pictures: set[str] = set()
        if any(os.path.realpath(os.path.dirname(path) or ".") == os.path.realpath(folder) for path in inputs):
            raise UserError(f"pictures in {folder} would replace image files there: choose another folder")
        try:
            os.makedirs(folder, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot write to {folder}: {error.strerror}") from error

    def add(
        self,
        path: str,
        image: np.ndarray,
        boxes: np.ndarray,
        scores: np.ndarray,
        labels: np.ndarray,
        masks: np.ndarray | None,
    ) -> None:
        """Adds an image file with its objects."""
        names = [f"{self._names[label]}: {score:.2f}" for label, score in zip(labels, scores, strict=True)]
        picture = draw_objects(image, boxes, names, labels.tolist(), masks)
        with replacing(os.path.join(self._folder, self._picture_name(path))) as temporary:
            picture.save(temporary, format="PNG")
        number = len(self._content["images"]) + 1
        height, width = image.shape[:2]
        self._content["images"].append({"id": number, "file_name": path, "height": height, "width": width})
        runs = [None] * len(boxes) if masks is None else run_lengths(masks)
        for box, score, label, mask in zip(boxes.tolist(), scores.tolist(), labels.tolist(), runs, strict=True):
            sides = [box[2] - box[0], box[3] - box[1]]
            entry = {
                "id": len(self._content["annotations"]) + 1,
                "image_id": number,
                "category_id": label + 1,
                "bbox": [*box[:2], *sides],
                "area": sides[0] * sides[1],
                "iscrowd": 0,
                "score": score,
            }
            self._content["annotations"].append(entry if mask is None else entry | {"segmentation": mask})

    def _picture_name(self, path: str) -> str:
        """The name of the file, numbered where others have it."""
        stem, number = os.path.splitext(os.path.basename(path))[0], 1
        name = f"{stem}.png"
        while name in self._pictures:
            number += 1
            name = f"{stem}_{number}.png"
        self._pictures.add(name)
        return name

    def close(self) -> None:
        """Writes predictions.json."""
        with replacing(os.path.join(self._folder, "predictions.json")) as path, open(path, "w") as file:
            json.dump(self._content, file)
