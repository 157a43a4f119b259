"""COCO annotation files: the objects of each image, checked, and what was left out."""

from __future__ import annotations

import collections
import dataclasses
import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from train.config.errors import UserError


@dataclasses.dataclass(frozen=True)
class Annotated:
    """An image with its objects.

    Attributes:
      path: file of the image.
      image_id: its id in the annotation file.
      size: height and width.
      boxes: x1, y1, x2, y2 in pixels, float32 (k, 4), clipped to the image.
      labels: classes from 0, int32 (k,).
      segmentations: polygons or run lengths of each object, as in the file; None where it has none.
    """

    path: str
    image_id: int
    size: tuple[int, int]
    boxes: np.ndarray
    labels: np.ndarray
    segmentations: tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class CocoImages:
    """The images of an annotation file.

    Attributes:
      images: those whose file exists, in the order of the annotation file.
      class_names: names of the categories, by label.
      category_ids: ids of the categories, by label; COCO's have gaps.
      left_out: how many images or objects were left out or changed, by reason.
    """

    images: tuple[Annotated, ...]
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    left_out: Mapping[str, int]

    def tell(self, path: str) -> None:
        """Prints one line that counts what was left out, if anything was."""
        if self.left_out:
            counts = ", ".join(f"{count} {reason}" for reason, count in self.left_out.items())
            print(f"note: {path}: {counts}", file=sys.stderr)


CROWD, FLAT, CLIPPED = "crowds left out", "boxes without area left out", "boxes clipped by more than a pixel"
MISSING, EMPTY = "images whose file is missing left out", "images without objects kept"


def read_coco(path: str, folder: str, *, masks: bool = False) -> CocoImages:
    """Reads a COCO annotation file.

    Crowds and boxes without area, also after clipping to the image, are left out of the objects; images whose file is
    missing are left out. Images without objects stay.

    Args:
      path: the JSON file.
      folder: folder of the images.
      masks: whether every object must have a segmentation.

    Raises:
      UserError: the file is missing, cut short or no COCO file; an entry lacks a key, or has an unknown category or
        image, a box that is not four finite numbers, or, with `masks`, no segmentation; ids occur twice; or no image
        file exists. The line names the file and the entry.
    """
    content = _load(path)
    categories = _by_id(path, content, "categories", ("id", "name"))
    images = _by_id(path, content, "images", ("id", "file_name", "height", "width"))
    entries = _by_id(path, content, "annotations", ("id", "image_id", "category_id", "bbox"))
    labels = {identity: label for label, identity in enumerate(sorted(categories))}
    left_out: collections.Counter[str] = collections.Counter()
    objects: dict[int, list[_Object]] = {identity: [] for identity in images}
    for entry in entries.values():
        where = f"{path}: annotation {entry['id']}"
        if entry["image_id"] not in images:
            raise UserError(f"{where} has image_id {entry['image_id']!r}, which no image has")
        if entry["category_id"] not in labels:
            raise UserError(f"{where} has category_id {entry['category_id']!r}, which no category has")
        found = _read_object(where, entry, images[entry["image_id"]], labels[entry["category_id"]], left_out)
        if found is None:
            continue
        if masks and found.segmentation is None:
            raise UserError(f"{where} has no segmentation, which masks need")
        objects[entry["image_id"]].append(found)
    annotated = []
    for identity, image in images.items():
        if not os.path.exists(os.path.join(folder, image["file_name"])):
            left_out[MISSING] += 1
            continue
        left_out[EMPTY] += not objects[identity]
        annotated.append(_annotated(image, folder, objects[identity]))
    if not annotated:
        raise UserError(f"{path}: none of its {len(images)} images is in {folder}")
    names = tuple(str(categories[identity]["name"]) for identity in sorted(categories))
    counted = {reason: count for reason, count in left_out.items() if count}
    return CocoImages(tuple(annotated), names, tuple(sorted(categories)), counted)


class _Object(NamedTuple):
    box: np.ndarray
    label: int
    segmentation: Any


def _read_object(
    where: str, entry: Mapping[str, Any], image: Mapping[str, Any], label: int, left_out: collections.Counter[str]
) -> _Object | None:
    """The object of an annotation; None, counted, if it is left out."""
    if entry.get("iscrowd"):
        left_out[CROWD] += 1
        return None
    box = _corners(where, entry["bbox"])
    clipped = np.clip(box, 0, np.array([image["width"], image["height"]] * 2, np.float32))
    if (clipped[2:] <= clipped[:2]).any():
        left_out[FLAT] += 1
        return None
    left_out[CLIPPED] += int((np.abs(clipped - box) > 1).any())
    return _Object(clipped, label, entry.get("segmentation") or None)


def _annotated(image: Mapping[str, Any], folder: str, objects: Sequence[_Object]) -> Annotated:
    boxes = [found.box for found in objects]
    return Annotated(
        os.path.join(folder, image["file_name"]),
        image["id"],
        (int(image["height"]), int(image["width"])),
        np.stack(boxes) if boxes else np.zeros((0, 4), np.float32),
        np.array([found.label for found in objects], np.int32),
        tuple(found.segmentation for found in objects),
    )


def read_masks(image: Annotated, where: str) -> np.ndarray:
    """The masks of the objects of an image, 0 and 1, uint8 (k, h, w); by faster-coco-eval, as COCO rasterises them.

    Args:
      image: its objects must have segmentations.
      where: the annotation file, for errors.

    Raises:
      UserError: a segmentation is neither polygons nor run lengths, or does not fit the image.
    """
    from faster_coco_eval.core import mask as rasteriser

    height, width = image.size
    masks = np.zeros((len(image.boxes), height, width), np.uint8)
    for index, segmentation in enumerate(image.segmentations):
        message = f"{where}: an object of image {image.image_id} has a segmentation that is "
        try:
            if isinstance(segmentation, list):
                parts = rasteriser.frPyObjects(segmentation, height, width)
                encoded = rasteriser.merge(parts)
            elif isinstance(segmentation.get("counts"), list):
                encoded = rasteriser.frPyObjects(segmentation, height, width)
            else:
                encoded = segmentation
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"{message}neither polygons nor run lengths") from error
        size = tuple(encoded["size"])
        if size != (height, width):
            raise UserError(f"{message}{size[0]}x{size[1]} pixels in an image of {height}x{width}")
        masks[index] = rasteriser.decode(encoded)
    return masks


def _load(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except OSError as error:
        raise UserError(f"cannot read annotations {path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is no COCO file: it holds a {type(content).__name__}, not an object")
    return content


def _by_id(path: str, content: Mapping[str, Any], section: str, keys: Sequence[str]) -> dict[int, dict[str, Any]]:
    """The entries of a section by their ids, each with all keys."""
    entries = content.get(section)
    if not isinstance(entries, list):
        raise UserError(f"{path} is no COCO file: it has no list of {section}")
    found: dict[int, dict[str, Any]] = {}
    for index, entry in enumerate(entries):
        missing = [key for key in keys if not isinstance(entry, dict) or key not in entry]
        if missing:
            raise UserError(f"{path}: entry {index} of {section} has no {missing[0]}")
        if entry["id"] in found:
            raise UserError(f"{path}: id {entry['id']!r} occurs twice in {section}")
        found[entry["id"]] = entry
    return found


def _corners(where: str, box: Any) -> np.ndarray:
    """x1, y1, x2, y2 of a COCO box, x, y, w, h."""
    try:
        x, y, width, height = (float(value) for value in box)
    except (TypeError, ValueError):
        raise UserError(f"{where} has bbox {box!r}, which is not four numbers") from None
    corners = np.array([x, y, x + width, y + height], np.float32)
    if not np.isfinite(corners).all():
        raise UserError(f"{where} has bbox {box!r}, which is not finite")
    return corners
