"""COCO annotation files: the objects of each image, checked, and what was left out."""

from __future__ import annotations

import collections
import json
import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from train.config.errors import UserError
from train.data.objects import AnnotatedImage, ObjectImages

CROWD, FLAT, CLIPPED = "crowd annotations left out", "boxes without area left out", "boxes clipped by more than a pixel"
MISSING, EMPTY = "images whose file is missing left out", "images without objects kept"


def read_coco(path: str, *folders: str, masks: bool = False) -> ObjectImages:
    """Reads a COCO annotation file.

    Crowds are left out of the objects, but are part of the ground truth. Boxes without area, also after clipping to
    the image, and images whose file is missing are left out of both. Images without objects stay.

    Args:
      path: the JSON file.
      *folders: where the images may be; the first folder that has one is taken.
      masks: whether every object must have a segmentation.

    Raises:
      UserError: the file is missing, cut short or no COCO file; an entry lacks a key, or has one of another type, an
        unknown category or image, a box that is not four finite numbers, or, with `masks`, no valid segmentation; ids
        are not integers or occur twice; or no image file exists. The line names the file and the entry.
    """
    content = _load(path)
    categories = _by_id(path, content, "categories", ("id", "name"))
    images = _by_id(path, content, "images", ("id", "file_name", "height", "width"))
    for image in images.values():
        size, name = (image["height"], image["width"]), image["file_name"]
        if not all(isinstance(side, int) and side > 0 for side in size):
            raise UserError(f"{path}: image {image['id']} has height and width {size}, which must be integers above 0")
        if not isinstance(name, str):
            raise UserError(f"{path}: image {image['id']} has file_name {name!r}, which must be text")
    if not categories:
        raise UserError(f"{path} has no categories")
    entries = _by_id(path, content, "annotations", ("id", "image_id", "category_id", "bbox"))
    labels = {identity: label for label, identity in enumerate(sorted(categories))}
    left_out: collections.Counter[str] = collections.Counter()
    objects: dict[int, list[_Object]] = {identity: [] for identity in images}
    counted: list[dict[str, Any]] = []
    for entry in entries.values():
        where = f"{path}: annotation {entry['id']}"
        if not isinstance(entry["image_id"], int) or entry["image_id"] not in images:
            raise UserError(f"{where} has image_id {entry['image_id']!r}, which no image has")
        if not isinstance(entry["category_id"], int) or entry["category_id"] not in labels:
            raise UserError(f"{where} has category_id {entry['category_id']!r}, which no category has")
        entry = {**entry, "iscrowd": _crowd(where, entry)}
        found = _read_object(where, entry, images[entry["image_id"]], labels[entry["category_id"]], left_out)
        if found is not None or (entry["iscrowd"] and (entry.get("segmentation") or not masks)):
            counted.append(entry)
        if found is None:
            continue
        if masks:
            _check_segmentation(where, found.segmentation, images[entry["image_id"]])
        objects[entry["image_id"]].append(found)
    folder = _folder_of(path, list(images.values()), folders)
    present = [image for image in images.values() if os.path.exists(os.path.join(folder, image["file_name"]))]
    left_out[MISSING] = len(images) - len(present)
    left_out[EMPTY] = sum(not objects[image["id"]] for image in present)
    return ObjectImages(
        source=path,
        images=tuple(_annotated(image, folder, objects[image["id"]]) for image in present),
        class_names=tuple(str(categories[identity]["name"]) for identity in sorted(categories)),
        category_ids=tuple(sorted(categories)),
        ground_truth=_ground_truth(present, list(categories.values()), counted),
        left_out={reason: count for reason, count in left_out.items() if count},
        read_masks=partial(read_masks, where=path),
    )


def _ground_truth(
    images: Sequence[Mapping[str, Any]], categories: Sequence[Any], entries: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """The contents of a COCO file with annotations numbered from 1, which have areas."""
    known = {image["id"] for image in images}
    annotations = [
        {**entry, "area": _area(entry), "id": number}
        for number, entry in enumerate((entry for entry in entries if entry["image_id"] in known), 1)
    ]
    return {"images": list(images), "categories": list(categories), "annotations": annotations}


def _area(entry: Mapping[str, Any]) -> float:
    """The area of an annotation, that of its box where it has none."""
    area = entry.get("area")
    return float(area) if isinstance(area, int | float) else float(entry["bbox"][2]) * float(entry["bbox"][3])


def _folder_of(path: str, images: Sequence[Mapping[str, Any]], folders: Sequence[str]) -> str:
    """The first folder that has one of the images."""
    for folder in folders:
        if any(os.path.exists(os.path.join(folder, image["file_name"])) for image in images):
            return folder
    example = f", such as {images[0]['file_name']}," if images else ""
    raise UserError(f"{path}: none of its {len(images)} images{example} is in {' or '.join(folders)}")


def _crowd(where: str, entry: Mapping[str, Any]) -> int:
    crowd = entry.get("iscrowd") or 0
    if crowd not in (0, 1):
        raise UserError(f"{where} has iscrowd {crowd!r}, which must be 0 or 1")
    return int(crowd)


def _check_segmentation(where: str, segmentation: Any, image: Mapping[str, Any]) -> None:
    """Raises UserError unless a segmentation is polygons of three points or more, or run lengths of the image."""
    size = [image["height"], image["width"]]
    if isinstance(segmentation, Mapping):
        if list(segmentation.get("size", ())) != size or not isinstance(segmentation.get("counts"), list | str):
            raise UserError(f"{where} has run lengths that are not counts of an image of {size[0]}x{size[1]} pixels")
        return
    if not isinstance(segmentation, list) or not segmentation:
        raise UserError(f"{where} has no segmentation, polygons or run lengths, which masks need")
    for polygon in segmentation:
        numbers = isinstance(polygon, list) and all(isinstance(number, int | float) for number in polygon)
        if not numbers or len(polygon) < 6 or len(polygon) % 2:
            raise UserError(f"{where} has a polygon {polygon!r:.60}, which is not at least three points x, y")


class _Object(NamedTuple):
    box: np.ndarray
    label: int
    segmentation: Any


def _read_object(
    where: str, entry: Mapping[str, Any], image: Mapping[str, Any], label: int, left_out: collections.Counter[str]
) -> _Object | None:
    """The object of an annotation; None, counted, if it is left out."""
    box = _corners(where, entry["bbox"])
    if entry["iscrowd"]:
        left_out[CROWD] += 1
        return None
    clipped = np.clip(box, 0, np.array([image["width"], image["height"]] * 2, np.float32))
    if (clipped[2:] <= clipped[:2]).any():
        left_out[FLAT] += 1
        return None
    left_out[CLIPPED] += int((np.abs(clipped - box) > 1).any())
    return _Object(clipped, label, entry.get("segmentation") or None)


def _annotated(image: Mapping[str, Any], folder: str, objects: Sequence[_Object]) -> AnnotatedImage:
    boxes = [found.box for found in objects]
    return AnnotatedImage(
        os.path.join(folder, image["file_name"]),
        image["id"],
        (image["height"], image["width"]),
        np.stack(boxes) if boxes else np.zeros((0, 4), np.float32),
        np.array([found.label for found in objects], np.int32),
        tuple(found.segmentation for found in objects),
    )


def read_masks(image: AnnotatedImage, where: str) -> np.ndarray:
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
                encoded = rasteriser.merge(rasteriser.frPyObjects(segmentation, height, width))
            elif isinstance(segmentation.get("counts"), list):
                encoded = rasteriser.frPyObjects(segmentation, height, width)
            else:
                encoded = segmentation
            size, mask = tuple(encoded["size"]), rasteriser.decode(encoded)
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"{message}neither polygons nor run lengths") from error
        if size != (height, width):
            raise UserError(f"{message}{size[0]}x{size[1]} pixels in an image of {height}x{width}")
        masks[index] = mask
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
        if not isinstance(entry["id"], int):
            raise UserError(f"{path}: entry {index} of {section} has id {entry['id']!r}, which must be an integer")
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
