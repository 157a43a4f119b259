"""Scenes with objects whose boxes and masks are exact: scanned digits and a cut-out flower on photographs.

All images ship with scikit-learn. A scene is decided by its split and number alone, so that the set is always the same.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from train.config.atomic import replacing

CLASSES = ("0", "1", "2", "3", "4", "dahlia")
SIDE = 128
"""Pixels of a scene."""
COUNTS = {"train": 800, "val": 200}
"""Scenes of each split."""
_MOST = 5
"""Objects of a scene."""
_SIZES = (18, 56)
"""Smallest and largest longer side of an object."""
_VISIBLE = 0.7
"""The share of an object that others must not cover."""


class _CutOut(NamedTuple):
    """An object: pixels, float32 (h, w, 3), and its mask, bool (h, w)."""

    pixels: np.ndarray
    mask: np.ndarray


@dataclasses.dataclass(frozen=True)
class Scene:
    """A scene.

    Attributes:
      image: uint8 (h, w, 3).
      labels: classes, integers (k,).
      masks: of the visible part of each object, bool (k, h, w).
    """

    image: np.ndarray
    labels: np.ndarray
    masks: np.ndarray


def scenes(split: str) -> Callable[[int], Scene]:
    """Returns what draws scene number i of a split, `"train"` or `"val"`.

    The splits share no digit and no part of the photograph of the ground; the flower is the same.
    """
    from sklearn.datasets import load_digits, load_sample_image

    bunch, first = load_digits(), split == "train"
    chosen = np.flatnonzero((bunch.target < len(CLASSES) - 1) & ((np.arange(len(bunch.target)) % 5 > 0) == first))
    photo = load_sample_image("china.jpg")
    ground = photo[:, : photo.shape[1] * 2 // 3] if first else photo[:, photo.shape[1] * 2 // 3 :]
    flower = _flower(load_sample_image("flower.jpg").astype(np.float32))

    def draw(number: int) -> Scene:
        rng = np.random.default_rng((len(split), number))
        image = _ground(ground, rng).astype(np.float32)
        labels: list[int] = []
        masks: list[np.ndarray] = []
        for _ in range(int(rng.integers(1, _MOST, endpoint=True))):
            label = int(rng.integers(len(CLASSES)))
            size = int(np.exp(rng.uniform(*np.log(_SIZES))))
            if label == len(CLASSES) - 1:
                cut_out = _resized(flower, size, rng)
            else:
                scan = bunch.images[rng.choice(chosen[bunch.target[chosen] == label])]
                cut_out = _digit(scan, size, rng)
            placed = _place(cut_out.mask, masks, rng)
            if placed is None:
                continue
            top, left, mask = placed
            height, width = cut_out.mask.shape
            image[top : top + height, left : left + width][cut_out.mask] = cut_out.pixels[cut_out.mask]
            masks = [other & ~mask for other in masks] + [mask]
            labels.append(label)
        return Scene(np.clip(image, 0, 255).astype(np.uint8), np.array(labels), np.stack(masks))

    return draw


def _ground(photo: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A square of a photograph, mirrored at random."""
    side = int(rng.integers(SIDE, min(photo.shape[:2]), endpoint=True))
    top, left = (int(rng.integers(0, length - side, endpoint=True)) for length in photo.shape[:2])
    cut = photo[top : top + side, left : left + side]
    resized = Image.fromarray(cut).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return np.asarray(resized)[:, :: 1 if rng.random() < 0.5 else -1]


def _flower(photo: np.ndarray) -> _CutOut:
    """The dahlia: the largest region that is redder than green, without holes."""
    from scipy import ndimage

    regions, _ = ndimage.label(photo[..., 0] - photo[..., 1] > 20)
    largest = 1 + int(np.argmax(np.bincount(regions.ravel())[1:]))
    mask = ndimage.binary_fill_holes(ndimage.binary_opening(regions == largest, iterations=3))
    rows, columns = ndimage.find_objects(mask.astype(int))[0]
    return _CutOut(photo[rows, columns], mask[rows, columns])


def _resized(cut_out: _CutOut, size: int, rng: np.random.Generator) -> _CutOut:
    """Turned by a multiple of 90 degrees, resized and scaled in brightness."""
    turns = int(rng.integers(4))
    pixels, mask = np.rot90(cut_out.pixels, turns), np.rot90(cut_out.mask, turns)
    height, width = (max(1, round(size * side / max(mask.shape))) for side in mask.shape)
    shape, bilinear = (width, height), Image.Resampling.BILINEAR
    small = np.asarray(Image.fromarray(pixels.astype(np.uint8)).resize(shape, bilinear), np.float32)
    share = np.asarray(Image.fromarray(mask.astype(np.uint8) * 255).resize(shape, bilinear))
    return _trimmed(small * np.float32(rng.uniform(0.6, 1.1)), share >= 128)


def _digit(scan: np.ndarray, size: int, rng: np.random.Generator) -> _CutOut:
    """A scanned digit, enlarged, in a random light colour."""
    enlarged = Image.fromarray((scan * 15).astype(np.uint8)).resize((size, size), Image.Resampling.BICUBIC)
    strength = np.asarray(enlarged, np.float32) / 240
    colour = rng.uniform(150, 255, 3).astype(np.float32)
    return _trimmed(strength[..., None] ** 0.5 * colour, strength >= 0.35)


def _trimmed(pixels: np.ndarray, mask: np.ndarray) -> _CutOut:
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    inside = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return _CutOut(pixels[inside], mask[inside])


def _place(mask: np.ndarray, others: list[np.ndarray], rng: np.random.Generator) -> tuple[int, int, np.ndarray] | None:
    """A position at which a mask hides little of the others, and the mask there; None if none is found."""
    height, width = mask.shape
    for _ in range(10):
        top, left = int(rng.integers(0, SIDE - height + 1)), int(rng.integers(0, SIDE - width + 1))
        placed = np.zeros((SIDE, SIDE), bool)
        placed[top : top + height, left : left + width] = mask
        if all((other & ~placed).sum() >= _VISIBLE * other.sum() for other in others):
            return top, left, placed
    return None


def write_scenes(folder: str, counts: dict[str, int] | None = None) -> None:
    """Writes the scenes as PNG files with annotations in COCO's format, for `coco:FOLDER`.

    Args:
      folder: created if missing; `images/SPLIT` and `annotations/instances_SPLIT.json` are written below it.
      counts: scenes of each split; None is `COUNTS`.
    """
    for split, count in (COUNTS if counts is None else counts).items():
        draw = scenes(split)
        content: dict[str, list[dict[str, Any]]] = {
            "images": [],
            "annotations": [],
            "categories": [{"id": number, "name": name} for number, name in enumerate(CLASSES, 1)],
        }
        os.makedirs(os.path.join(folder, "images", split), exist_ok=True)
        for number in range(count):
            scene, name = draw(number), f"{number:04d}.png"
            with replacing(os.path.join(folder, "images", split, name)) as path:
                Image.fromarray(scene.image).save(path, format="PNG")
            content["images"].append({"id": number + 1, "file_name": name, "height": SIDE, "width": SIDE})
            for label, mask in zip(scene.labels.tolist(), scene.masks, strict=True):
                entry = {"id": len(content["annotations"]) + 1, "image_id": number + 1, "category_id": label + 1}
                content["annotations"].append(entry | _described(mask))
        os.makedirs(os.path.join(folder, "annotations"), exist_ok=True)
        with replacing(os.path.join(folder, "annotations", f"instances_{split}.json")) as path, open(path, "w") as file:
            json.dump(content, file)


def _described(mask: np.ndarray) -> dict[str, Any]:
    """Box, area and run lengths of a mask, as COCO writes them."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    x, y = int(columns[0]), int(rows[0])
    flat = np.concatenate([[False], mask.ravel(order="F"), [False]])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    runs = np.diff(np.concatenate([[0], changes, [mask.size]]))
    counts = runs if runs[-1] else runs[:-1]
    return {
        "bbox": [x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y],
        "area": int(mask.sum()),
        "iscrowd": 0,
        "segmentation": {"size": list(mask.shape), "counts": counts.tolist()},
    }
