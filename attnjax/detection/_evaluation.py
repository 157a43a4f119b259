"""Average precision as COCO and Pascal VOC define it, on the host."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from attnjax._choice import check_choice

COCO_METRICS = (
    "AP",
    "AP50",
    "AP75",
    "AP_small",
    "AP_medium",
    "AP_large",
    "AR_1",
    "AR_10",
    "AR_100",
    "AR_small",
    "AR_medium",
    "AR_large",
)
"""COCO's twelve numbers, in its order."""


@dataclasses.dataclass(frozen=True)
class CocoEvaluation:
    """COCO's numbers of a set of detections; -1 where there is no ground truth.

    Attributes:
      metrics: the twelve numbers by name, see `COCO_METRICS`.
      per_category: `AP`, `AP50`, `AP75` and `AR_100` of each category, by its id.
      precision: by IoU threshold, recall, category, area range and number of detections, (10, 101, n, 4, 3).
      recall: by IoU threshold, category, area range and number of detections, (10, n, 4, 3).

    Example:
      >>> from attnjax.detection import coco_evaluation
      >>> truth = {"images": [], "categories": [{"id": 1, "name": "cat"}], "annotations": []}
      >>> coco_evaluation(truth, []).metrics["AP"]
      -1.0
    """

    metrics: dict[str, float]
    per_category: dict[int, dict[str, float]]
    precision: np.ndarray
    recall: np.ndarray


def coco_evaluation(
    ground_truth: Mapping[str, Any],
    detections: Sequence[Mapping[str, Any]],
    kind: Literal["bbox", "segm"] = "bbox",
) -> CocoEvaluation:
    """Evaluates detections by `faster-coco-eval`, which gives pycocotools' numbers; an extra, `attnjax[detection]`.

    Args:
      ground_truth: the contents of a COCO annotation file: `images`, `categories` and `annotations`, whose ids start
        at 1.
      detections: COCO results: `image_id`, `category_id`, `score` and `bbox` (x, y, w, h), or `segmentation` (RLE).
      kind: whether boxes or masks are compared. For masks any `bbox` of the results is ignored: with it, their area
        would be the box's.

    Returns:
      The metrics. Neither argument is changed.

    Raises:
      ValueError: an annotation has id 0, which counts as no match, or the kind is unknown.
      ImportError: `faster-coco-eval` is not installed.

    Example:
      >>> from attnjax.detection import coco_evaluation
      >>> box = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 10]}
      >>> truth = {"images": [{"id": 1, "width": 20, "height": 20}], "categories": [{"id": 1, "name": "cat"}],
      ...          "annotations": [{"id": 1, "area": 100, "iscrowd": 0, **box}]}
      >>> round(coco_evaluation(truth, [{"score": 0.9, **box}]).metrics["AP"], 6)
      1.0

    References:
      Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014.
    """
    check_choice("kind", kind, ("bbox", "segm"))
    if any(annotation["id"] == 0 for annotation in ground_truth["annotations"]):
        raise ValueError("an annotation has id 0, which COCO's evaluation takes for no match: number them from 1")
    try:
        from faster_coco_eval import COCO
        from faster_coco_eval.core.faster_eval_api import COCOeval_faster
    except ImportError as error:
        raise ImportError("COCO's evaluation needs faster-coco-eval: pip install 'attnjax[detection]'") from error
    truth = COCO(copy.deepcopy(dict(ground_truth)), print_function=_silent)
    results = [dict(result) for result in detections]
    if kind == "segm":
        results = [{name: value for name, value in result.items() if name != "bbox"} for result in results]
    found = truth.loadRes(results) if results else COCO({**_without(truth), "annotations": []}, print_function=_silent)
    evaluation = COCOeval_faster(truth, found, iouType=kind, print_function=_silent)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    precision, recall = evaluation.eval["precision"], evaluation.eval["recall"]
    per_category = {}
    for index, category in enumerate(evaluation.params.catIds):
        of_category = precision[:, :, index, 0, -1]
        per_category[int(category)] = {
            "AP": _mean(of_category),
            "AP50": _mean(of_category[0]),
            "AP75": _mean(of_category[5]),
            "AR_100": _mean(recall[:, index, 0, -1]),
        }
    metrics = dict(zip(COCO_METRICS, map(float, evaluation.stats[:12]), strict=True))
    return CocoEvaluation(metrics, per_category, precision, recall)


def _silent(*arguments: Any, **options: Any) -> None:
    pass


def _without(truth: Any) -> dict[str, Any]:
    return {name: truth.dataset[name] for name in ("images", "categories")}


def _mean(values: np.ndarray) -> float:
    """The mean of the values that are defined; -1 if none is."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else -1.0


@dataclasses.dataclass(frozen=True)
class VocCurve:
    """Precision and recall of one class as its detections are taken by decreasing score.

    Attributes:
      recall, precision: after each detection, float64 (k,).
      positives: objects that count.

    Example:
      >>> import numpy as np
      >>> from attnjax.detection import VocCurve
      >>> VocCurve(np.array([0.5, 0.5]), np.array([1.0, 0.5]), positives=2).average_precision(2012)
      0.5
    """

    recall: np.ndarray
    precision: np.ndarray
    positives: int

    def average_precision(self, year: Literal[2007, 2012] = 2012) -> float:
        """The mean precision at 11 recalls (VOC 2007), or the area under the curve (2012); NaN without objects."""
        check_choice("year", year, (2007, 2012))
        if not self.positives:
            return float("nan")
        if year == 2007:
            reached = (self.precision[self.recall >= at] for at in np.arange(0.0, 1.1, 0.1))
            return float(sum(values.max(initial=0.0) / 11 for values in reached))
        recall = np.concatenate([[0.0], self.recall, [1.0]])
        precision = np.concatenate([[0.0], self.precision, [0.0]])
        precision = np.maximum.accumulate(precision[::-1])[::-1]
        return float(((recall[1:] - recall[:-1]) * precision[1:]).sum())


def voc_curve(
    objects: Sequence[tuple[Any, Sequence[float], bool]],
    detections: Sequence[tuple[Any, Sequence[float], float]],
    *,
    overlap: float = 0.5,
    inclusive: bool = True,
    at_least: bool = False,
) -> VocCurve:
    """Matches the detections of a class with its objects as Pascal VOC does.

    By decreasing score, a detection takes the object of its image that it overlaps most. It is right if the overlap is
    large enough and the object not matched yet; detections of difficult objects do not count.

    Args:
      objects: image, box x1, y1, x2, y2 and whether it is difficult, of each object of the class.
      detections: image, box and score of each detection.
      overlap: the IoU needed.
      inclusive: whether x2 and y2 are the last pixels of a box, so that sides are x2 - x1 + 1 (the VOC rule), or not.
      at_least: whether an IoU equal to `overlap` is enough (MATLAB devkit) or not (py-faster-rcnn).

    Returns:
      Precision and recall.

    Example:
      >>> from attnjax.detection import voc_curve
      >>> objects = [("a", (1, 1, 20, 20), False), ("b", (1, 1, 20, 20), False)]
      >>> curve = voc_curve(objects, [("a", (1, 1, 20, 20), 0.9), ("b", (30, 30, 40, 40), 0.8)])
      >>> curve.precision.tolist(), curve.average_precision(2012)
      ([1.0, 0.5], 0.5)

    References:
      Everingham et al., "The Pascal Visual Object Classes (VOC) Challenge", IJCV 2010.
    """
    side = 1.0 if inclusive else 0.0
    boxes: dict[Any, list[Sequence[float]]] = {}
    difficult: dict[Any, list[bool]] = {}
    for image, box, is_difficult in objects:
        boxes.setdefault(image, []).append(box)
        difficult.setdefault(image, []).append(bool(is_difficult))
    matched = {image: [False] * len(each) for image, each in boxes.items()}
    order = np.argsort([-score for _, _, score in detections], kind="stable")
    right, wrong = np.zeros(len(order)), np.zeros(len(order))
    for rank, index in enumerate(order):
        image, box, _ = detections[index]
        best, most = 0, -np.inf
        if image in boxes:
            overlaps = _overlaps(np.asarray(boxes[image], float), np.asarray(box, float), side)
            best, most = int(overlaps.argmax()), overlaps.max()
        if not (most >= overlap if at_least else most > overlap):
            wrong[rank] = 1
        elif not difficult[image][best]:
            (wrong if matched[image][best] else right)[rank] = 1
            matched[image][best] = True
    right, wrong = np.cumsum(right), np.cumsum(wrong)
    positives = sum(not each for of_image in difficult.values() for each in of_image)
    recall = right / positives if positives else np.full(len(right), np.nan)
    return VocCurve(recall, right / np.maximum(right + wrong, np.finfo(float).eps), positives)


def _overlaps(boxes: np.ndarray, box: np.ndarray, side: float) -> np.ndarray:
    sides = np.maximum(np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2]) + side, 0)
    areas = [np.prod(each[..., 2:] - each[..., :2] + side, axis=-1) for each in (boxes, box)]
    intersection = sides.prod(-1)
    overlaps: np.ndarray = intersection / (areas[0] + areas[1] - intersection)
    return overlaps
