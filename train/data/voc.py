"""Pascal VOC annotations: one XML file for each image."""

from __future__ import annotations

import collections
import os
from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

import numpy as np

from train.config.errors import UserError, nearest
from train.data.coco import EMPTY, FLAT, MISSING
from train.data.objects import AnnotatedImage, ObjectImages

DIFFICULT = "difficult objects left out"


def read_voc(parts: Sequence[tuple[str, str]], class_names: Sequence[str] | None = None) -> ObjectImages:
    """Reads image sets of Pascal VOC.

    Difficult objects are left out, but are part of the ground truth, as crowds.

    Args:
      parts: folders with `Annotations`, `JPEGImages` and `ImageSets/Main`, each with the name of an image set, such as
        `trainval`.
      class_names: the classes; None takes those that occur, sorted.

    Raises:
      UserError: a file is missing or damaged, an entry is not as it must be, or a class is none of `class_names`. The
        line names the file and the entry.
    """
    source = " and ".join(f"{folder}, {image_set}" for folder, image_set in parts)
    read = [
        _read_image(folder, name, number)
        for number, (folder, name) in enumerate(
            ((folder, name) for folder, image_set in parts for name in _names(folder, image_set)), 1
        )
    ]
    if class_names is None:
        class_names = sorted({name for _, objects in read for name, _, _ in objects})
    labels = {name: label for label, name in enumerate(class_names)}
    left_out: collections.Counter[str] = collections.Counter()
    images: list[AnnotatedImage] = []
    annotations: list[dict[str, Any]] = []
    for image, objects in read:
        if not os.path.exists(image.path):
            left_out[MISSING] += 1
            continue
        kept: list[tuple[np.ndarray, int]] = []
        for name, box, difficult in objects:
            if name not in labels:
                known = f"which is none of {', '.join(labels)}{nearest(name, labels)}"
                raise UserError(f"{source}: {image.path} has an object of class {name!r}, {known}")
            if (box[2:] <= box[:2]).any():
                left_out[FLAT] += 1
                continue
            if not difficult:
                kept.append((box, labels[name]))
            left_out[DIFFICULT] += difficult
            annotations.append(_annotation(image, len(annotations) + 1, labels[name] + 1, box, difficult))
        left_out[EMPTY] += not kept
        images.append(_with_objects(image, kept))
    if not images:
        raise UserError(f"{source}: none of the {len(read)} images exists")
    return ObjectImages(
        source=source,
        images=tuple(images),
        class_names=tuple(class_names),
        category_ids=tuple(range(1, len(class_names) + 1)),
        ground_truth=_ground_truth(images, class_names, annotations),
        left_out={reason: count for reason, count in left_out.items() if count},
        read_masks=_no_masks,
    )


def _names(folder: str, image_set: str) -> list[str]:
    path = os.path.join(folder, "ImageSets", "Main", f"{image_set}.txt")
    try:
        with open(path) as file:
            return [line.split()[0] for line in file if line.strip()]
    except OSError as error:
        raise UserError(f"cannot read image set {path}: {error.strerror}") from error


_Objects = list[tuple[str, np.ndarray, bool]]


def _read_image(folder: str, name: str, number: int) -> tuple[AnnotatedImage, _Objects]:
    """An image without its objects; and class, box and whether it is difficult, of each object."""
    path = os.path.join(folder, "Annotations", f"{name}.xml")
    try:
        root = ElementTree.parse(path).getroot()
    except OSError as error:
        raise UserError(f"cannot read annotation {path}: {error.strerror}") from error
    except ElementTree.ParseError as error:
        raise UserError(f"{path} is not valid XML: {error}") from error
    size = (_whole(path, root, "size/height"), _whole(path, root, "size/width"))
    if min(size) < 1:
        raise UserError(f"{path}: size is {size[1]}x{size[0]}, it must be at least 1x1")
    objects = []
    for element in root.findall("object"):
        first = [_number(path, element, f"bndbox/{side}") - 1 for side in ("xmin", "ymin")]  # counted from 1
        last = [_number(path, element, f"bndbox/{side}") for side in ("xmax", "ymax")]
        box = np.clip(np.array(first + last, np.float32), 0, np.array([size[1], size[0]] * 2, np.float32))
        objects.append((_text(path, element, "name"), box, element.findtext("difficult", "0").strip() == "1"))
    file = root.findtext("filename") or f"{name}.jpg"
    image = AnnotatedImage(
        os.path.join(folder, "JPEGImages", file), number, size, np.zeros((0, 4)), np.zeros(0, np.int32), ()
    )
    return image, objects


def _with_objects(image: AnnotatedImage, objects: Sequence[tuple[np.ndarray, int]]) -> AnnotatedImage:
    boxes = np.stack([box for box, _ in objects]) if objects else np.zeros((0, 4), np.float32)
    labels = np.array([label for _, label in objects], np.int32)
    return AnnotatedImage(image.path, image.image_id, image.size, boxes, labels, (None,) * len(objects))


def _annotation(image: AnnotatedImage, number: int, category: int, box: np.ndarray, difficult: bool) -> dict[str, Any]:
    x, y, right, bottom = box.tolist()
    sides = (right - x, bottom - y)
    return {
        "id": number,
        "image_id": image.image_id,
        "category_id": category,
        "bbox": [x, y, *sides],
        "area": sides[0] * sides[1],
        "iscrowd": int(difficult),
    }


def _ground_truth(
    images: Sequence[AnnotatedImage], class_names: Sequence[str], annotations: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    described = [
        {
            "id": image.image_id,
            "file_name": os.path.basename(image.path),
            "height": image.size[0],
            "width": image.size[1],
        }
        for image in images
    ]
    categories = [{"id": number, "name": name} for number, name in enumerate(class_names, 1)]
    return {"images": described, "categories": categories, "annotations": list(annotations)}


def _no_masks(image: AnnotatedImage) -> np.ndarray:
    raise UserError(f"{image.path}: Pascal VOC's annotations have no masks")


def _text(path: str, element: ElementTree.Element, name: str) -> str:
    text = (element.findtext(name) or "").strip()
    if not text:
        raise UserError(f"{path}: {element.tag} has no {name}")
    return text


def _number(path: str, element: ElementTree.Element, name: str) -> float:
    text = _text(path, element, name)
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise UserError(f"{path}: {element.tag} has {name} {text!r}, which is no finite number")
    return value


def _whole(path: str, element: ElementTree.Element, name: str) -> int:
    value = _number(path, element, name)
    if value != int(value):
        raise UserError(f"{path}: {element.tag} has {name} {value}, which is no whole number")
    return int(value)
