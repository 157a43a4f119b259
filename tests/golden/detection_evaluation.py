"""Evaluation of detections, and sizes of detectors, by key."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from attnjax import detection as d
from attnjax import init
from attnjax.models import model_constructor
from tests.golden.reference import Fixture

RTOL = 1e-6


def _input(fixture: Fixture, name: str) -> Any:
    return json.loads(Path(f"{fixture.path}_{name}.json").read_text())


def check_coco(fixture: Fixture) -> None:
    manifest, truth, unmapped = fixture.manifest, _input(fixture, "ground_truth"), set(fixture.keys)
    for kind in ("bbox", "segm"):
        found = d.coco_evaluation(truth, _input(fixture, f"detections_{kind}"), kind)  # type: ignore[arg-type]
        assert found.metrics == _near(manifest[f"stats_{kind}"])
        for category, metrics in manifest[f"per_category_{kind}"].items():
            assert found.per_category[int(category)] == _near(metrics)
        np.testing.assert_allclose(list(found.metrics.values()), fixture.arrays[f"{kind}/stats"], atol=RTOL)
        precision = found.precision[..., 0, -1]
        np.testing.assert_allclose(precision, fixture.arrays[f"{kind}/precision_all_maxdets100"], atol=RTOL)
        np.testing.assert_allclose(found.recall, fixture.arrays[f"{kind}/recall"], atol=RTOL)
        unmapped -= {f"{kind}/stats", f"{kind}/precision_all_maxdets100", f"{kind}/recall"}
    assert not unmapped


def check_voc(fixture: Fixture) -> None:
    manifest, given, unmapped = fixture.manifest, _input(fixture, "input"), set(fixture.keys)
    averages: dict[str, list[float]] = {"voc07": [], "voc12": []}
    for name in manifest["classes"]:
        objects = [(x["image"], x["bbox"], bool(x["difficult"])) for x in given["objects"] if x["name"] == name]
        detections = [(x["image"], x["bbox"], x["score"]) for x in given["detections"] if x["name"] == name]
        curve = d.voc_curve(objects, detections)
        assert curve.positives == manifest["npos"][name]
        without = d.voc_curve(objects, detections, inclusive=False)
        legacy = d.voc_curve(objects, detections, at_least=True)
        for year in (2007, 2012):
            key = f"ap_voc{year % 100:02d}"
            _assert_near(curve.average_precision(year), manifest[key][name])
            _assert_near(without.average_precision(year), manifest["no_plus_one"][key][name])
            _assert_near(legacy.average_precision(year), manifest["mmdetection_legacy"][key][name])
            averages[key[3:]].append(curve.average_precision(year))
        for kind in ("recall", "precision"):
            if f"{kind}/{name}" in fixture.keys:
                np.testing.assert_allclose(getattr(curve, kind), fixture.arrays[f"{kind}/{name}"], atol=RTOL)
                unmapped.discard(f"{kind}/{name}")
    for year, values in averages.items():
        assert np.nanmean(values) == _near(manifest[f"map_{year}"])
    assert not unmapped


def _near(expected: Any) -> Any:
    return pytest.approx(expected, abs=RTOL)


def _assert_near(found: float, expected: float | None) -> None:
    assert np.isnan(found) if expected is None else found == _near(expected)


def _sizes(model: Any, shape: tuple[int, ...] = (1, 64, 64, 3)) -> dict[str, int]:
    """Parameters of each leaf, by its path."""
    shapes = jax.eval_shape(lambda key: init(model, key, shape), jax.random.key(0))["params"]
    return {
        "/".join(str(part.key) for part in path): leaf.size
        for path, leaf in jax.tree_util.tree_leaves_with_path(shapes)
    }


def _under(sizes: dict[str, int], *starts: str) -> int:
    return sum(size for path, size in sizes.items() if path.startswith(starts))


_PARTS = {
    "backbone.body": ("backbone/",),
    "backbone.fpn": ("pyramid/",),
    "rpn.head": ("rpn/",),
    "head": ("head/",),
    "head.classification_head": ("head/class_",),
    "head.regression_head": ("head/box_",),
    "roi_heads.box_head": ("box_head/fc",),
    "roi_heads.box_predictor": ("box_head/class_logits", "box_head/box_deltas"),
    "roi_heads.mask_head": ("mask_head/conv",),
    "roi_heads.mask_predictor": ("mask_head/upsample", "mask_head/mask_logits"),
}
_NETS = {"fasterrcnn": d.FasterRCNN, "maskrcnn": d.MaskRCNN, "retinanet": d.RetinaNet}


def check_torchvision_counts(fixture: Fixture) -> None:
    for constructor, counts in fixture.manifest["counts"].items():
        found = re.fullmatch(r"(\w+?)_(resnet\d+)_fpn\(num_classes=(\d+)\)", constructor)
        assert found, f"not mapped: {constructor}"
        retina = found[1] == "retinanet"
        options = d.RETINANET_TORCHVISION if retina else d.RCNN_TORCHVISION
        classes = int(found[3]) - (not retina)
        sizes = _sizes(_NETS[found[1]](model_constructor(found[2], num_classes=0), num_classes=classes, **options))
        norms = sum(size for path, size in sizes.items() if re.search(r"backbone/.*bn\w*/(scale|bias)", path))
        for name, count in counts.items():
            if name == "total":
                assert sum(sizes.values()) == count
            elif name == "total_frozen_batch_norm":
                assert sum(sizes.values()) - norms == count
            elif name == "backbone.body.by_stage":
                for stage, of_stage in count.items():
                    starts = ("backbone/conv1", "backbone/bn1")
                    if stage != "stem":
                        starts = (f"backbone/{stage.replace('layer', 'stage')}_",)  # type: ignore[assignment]
                    assert _under(sizes, *starts) == of_stage, (constructor, stage)
            else:
                assert _under(sizes, *_PARTS[name]) == count, (constructor, name)


def check_epsanet_counts(fixture: Fixture) -> None:
    manifest = fixture.manifest
    for kind in ("faster_rcnn", "mask_rcnn", "retinanet"):
        for backbone, name in {"small": "epsanet50_small", "large": "epsanet50_large", "resnet50": "resnet50"}.items():
            expected, model = manifest[kind][backbone], d.create_detector(f"{kind}_{name}")
            sizes = _sizes(model)
            total = sum(sizes.values())
            frozen = _under(sizes, "backbone/conv1", "backbone/bn1", "backbone/stage1_")
            assert total == expected["total"], (kind, name)
            assert total - frozen == expected["total_minus_frozen"], (kind, name)
            assert total - _under(sizes, "backbone/") == manifest[kind]["neck_and_heads"], (kind, name)
            if backbone != "resnet50":
                stages = manifest["epsanet50_stages"][backbone]
                for stage in range(1, 5):
                    assert _under(sizes, f"backbone/stage{stage}_") == stages[f"layer{stage}"]


CHECKS = {
    "coco": check_coco,
    "voc": check_voc,
    "torchvision_resnet50_fpn": check_torchvision_counts,
    "epsanet_detection_table": check_epsanet_counts,
}
"""By family, or name of the fixture."""
