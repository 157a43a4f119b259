"""From a detector's outputs to COCO's results, and the metrics of those."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from attnjax.detection import CocoEvaluation, Detections, paste_masks, voc_curve

UNDEFINED = -1
"""COCO's value of a metric where there is no object."""
_STEP = 64
"""Masks are pasted into images whose sides are multiples of it, so that few sizes are compiled."""
_CHUNK = 8
"""Masks that are pasted at once, to save memory."""


def pasted_masks(masks: np.ndarray, boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The masks of detections in an image of any size, bool (k, h, w).

    Args:
      masks: probabilities within the boxes, (k, m, m).
      boxes: in pixels of the image, (k, 4).
      size: height and width of the image.
    """
    padded = tuple(-(-side // _STEP) * _STEP for side in size)
    pasted = np.zeros((len(masks), *size), bool)
    for start in range(0, len(masks), _CHUNK):
        part = slice(start, start + _CHUNK)
        missing = _CHUNK - len(masks[part])
        chunk = _paste(
            np.pad(masks[part], ((0, missing), (0, 0), (0, 0))), np.pad(boxes[part], ((0, missing), (0, 0))), padded
        )
        pasted[part] = np.asarray(chunk)[: _CHUNK - missing, : size[0], : size[1]]
    return pasted


@partial(jax.jit, static_argnums=2)
def _paste(masks: jax.Array, boxes: jax.Array, size: tuple[int, int]) -> jax.Array:
    return paste_masks(masks, boxes, size) >= 0.5


def coco_results(
    found: Detections, sizes: Sequence[tuple[int, int]], image_ids: Sequence[Any], category_ids: Sequence[int]
) -> Iterator[dict[str, Any]]:
    """The valid detections as entries of COCO's results, with run lengths where there are masks.

    Args:
      found: detections, on the host.
      sizes: height and width of each image.
      image_ids: of each image.
      category_ids: of each class.
    """
    for row, (size, image_id) in enumerate(zip(sizes, image_ids, strict=True)):
        count = int(found.count[row])
        boxes, runs = np.asarray(found.original_boxes[row], np.float64), None
        if found.masks is not None:
            masks, corners = np.asarray(found.masks[row, :count]), np.asarray(found.original_boxes[row, :count])
            runs = run_lengths(pasted_masks(masks, corners, size))
        for number in range(count):
            x, y, right, bottom = boxes[number].tolist()
            entry = {
                "image_id": image_id,
                "category_id": category_ids[int(found.classes[row, number])],
                "bbox": [x, y, right - x, bottom - y],
                "score": float(found.scores[row, number]),
            }
            yield entry if runs is None else entry | {"segmentation": runs[number]}


def run_lengths(masks: np.ndarray) -> list[dict[str, Any]]:
    """COCO's compressed run lengths of masks, bool (k, h, w)."""
    from faster_coco_eval.core import mask as rasteriser

    encoded = [rasteriser.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in masks]
    return [{"size": list(each["size"]), "counts": _text(each["counts"])} for each in encoded]


def _text(counts: Any) -> str:
    return counts.decode() if isinstance(counts, bytes) else counts


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Metrics over all test images.

    Attributes:
      losses: the mean loss and its terms, by name.
      count: number of images.
      class_names: names of the classes, by label.
      results: COCO's results.
      boxes: COCO's metrics of the boxes.
      masks: those of the masks; None for detectors without.
      voc: mean average precision of VOC 2007 and 2012 at an IoU of 0.5, by name; empty for other data.
    """

    losses: Mapping[str, float]
    count: int
    class_names: tuple[str, ...]
    results: Sequence[Mapping[str, Any]]
    boxes: CocoEvaluation
    masks: CocoEvaluation | None
    voc: Mapping[str, float]

    def figures(self) -> dict[str, float]:
        """The metrics by name, as reported: COCO's of masks start with `mask_`; what is undefined is left out."""
        figures = {**self.losses, **_defined(self.boxes.metrics), **self.voc}
        if self.masks is not None:
            figures |= {f"mask_{name}": value for name, value in _defined(self.masks.metrics).items()}
        return figures

    def per_class(self) -> list[dict[str, Any]]:
        """A row for each class: its name, and `AP`, `AP50`, `AP75` and `AR_100` of boxes and masks, or None."""
        rows = []
        for label, category in enumerate(sorted(self.boxes.per_category)):
            row: dict[str, Any] = {"class": self.class_names[label], **self.boxes.per_category[category]}
            if self.masks is not None:
                row |= {f"mask_{name}": value for name, value in self.masks.per_category[category].items()}
            row = {name: None if value == UNDEFINED else value for name, value in row.items()}
            rows.append(row)
        return rows


def _defined(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if value != UNDEFINED}


def voc_metrics(truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Mean average precision of VOC 2007 and 2012, over the classes that have objects; crowds count as difficult."""
    averages: dict[str, list[float]] = {"VOC07_AP": [], "VOC12_AP": []}
    for category in truth["categories"]:
        objects = [
            (entry["image_id"], _corners(entry), bool(entry["iscrowd"]))
            for entry in truth["annotations"]
            if entry["category_id"] == category["id"]
        ]
        found = [
            (entry["image_id"], _corners(entry), entry["score"])
            for entry in results
            if entry["category_id"] == category["id"]
        ]
        curve = voc_curve(objects, found, inclusive=False)
        if curve.positives:
            averages["VOC07_AP"].append(curve.average_precision(2007))
            averages["VOC12_AP"].append(curve.average_precision(2012))
    return {name: float(np.mean(values)) for name, values in averages.items() if values}


def _corners(entry: Mapping[str, Any]) -> tuple[float, float, float, float]:
    x, y, width, height = entry["bbox"]
    return x, y, x + width, y + height
