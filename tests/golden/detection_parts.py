"""What modules, post-processing and losses of detectors compute, by key."""

from __future__ import annotations

import dataclasses
import re
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from attnjax import detection as d
from attnjax.convert._mapping import leaf_shapes_of, read_entries, to_layout
from attnjax.convert._sources import SOURCES
from tests.golden.detection_fixtures import Produce, drawn, given
from tests.golden.reference import Fixture, sample

Found = dict[str, Any]
SOURCE = SOURCES["torchvision-detection"]


def numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


def _module(constructor: str) -> tuple[nn.Module, str]:
    """Our module of a reference's constructor, by torchvision's names of outputs, and its place in a detector."""
    n = numbers(constructor)
    if constructor.startswith("torchvision.ops.FeaturePyramidNetwork"):
        widths = numbers(constructor.partition("]")[0])
        channels = numbers(constructor.partition("]")[2])[0]
        options: dict[str, Any] = {"first_level": 6 - len(widths)}
        if "LastLevelMaxPool" in constructor:
            options["extra"] = "pool"
        elif found := re.search(r"LastLevelP6P7\((\d+), (\d+)\)", constructor):
            same = found[1] == found[2]
            options |= {"extra": "conv", "extra_from": "output" if same else "input", "extra_activation": True}
        return d.FeaturePyramid(channels, **options), "pyramid"
    if constructor.startswith("RPNHead"):
        return d.RPNHead(n[1], n[0]), "rpn"
    if constructor.startswith("RetinaNetHead"):
        return d.RetinaHead(n[2], n[1], n[0]), "head"
    if constructor.startswith("box_head"):
        hidden, classes = (numbers(part)[-1] for part in constructor.split(";"))
        return d.BoxHead(classes - 1, hidden, background_first=True), "box_head"
    if constructor.startswith("mask_head"):
        widths = numbers(constructor.partition("(")[2].partition("(")[2].partition(")")[0])
        upsample, classes = numbers(constructor.rpartition("(")[2])[1:]
        return d.MaskHead(classes, tuple(widths), upsample), "mask_head"
    raise AssertionError(f"not mapped: {constructor}")


def _outputs(place: str, result: Any, inputs: list[jax.Array], names: list[str]) -> Found:
    """The results by the reference's names."""
    if place == "pyramid":
        return dict(zip(names, result, strict=True))
    if place == "head":
        return {"cls_logits": result[0], "bbox_regression": result[1]}
    if place == "box_head":
        return {"class_logits": result[0], "box_regression": result[1].reshape(len(result[1]), -1)}
    if place == "mask_head":
        return {"mask_logits": result}
    objectness, deltas = result
    found, start = {"objectness_flat": objectness, "deltas_flat": deltas}, 0
    anchors = objectness.shape[1] // sum(x.shape[1] * x.shape[2] for x in inputs)
    for index, x in enumerate(inputs):
        stop = start + x.shape[1] * x.shape[2] * anchors
        found[f"objectness/{index}"] = objectness[:, start:stop].reshape(*x.shape[:3], anchors)
        found[f"deltas/{index}"] = deltas[:, start:stop].reshape(*x.shape[:3], 4 * anchors)
        start = stop
    return found


def module(fixture: Fixture, dtype: Any) -> Found:
    manifest = fixture.manifest
    made, place = _module(manifest["constructor"])
    model: Any = made.clone(dtype=dtype, param_dtype=dtype)
    inputs = [drawn(each["seed"], each["shape"], dtype) for each in manifest["inputs"]]
    argument = (lambda inputs: inputs[0]) if place in ("box_head", "mask_head") else (lambda inputs: inputs)
    shapes = leaf_shapes_of(lambda key: model.init(key, argument(inputs)))
    names = SOURCE.names([path.replace("/", f"/{place}/", 1) for path in shapes], model)
    prefixes = ("backbone.fpn.", "rpn.head.", "head.", "roi_heads.")
    short = {}
    for path in shapes:
        name = names[path.replace("/", f"/{place}/", 1)]
        short[path] = name.removeprefix(next(prefix for prefix in prefixes if name.startswith(prefix)))
    places = {path: path.replace("/", f"/{place}/", 1) for path in shapes}
    leaves, wrong = read_entries(
        fixture.state_dict(),
        {places[path]: name for path, name in short.items()},
        {places[path]: shape for path, shape in shapes.items()},
        SOURCE,
    )
    assert not wrong, wrong.describe()
    variables = unflatten_dict({path: jnp.asarray(leaves[places[path]], dtype) for path in shapes}, sep="/")
    assert sum(leaf.size for leaf in leaves.values()) == manifest["params"]

    @jax.jit
    def run(variables: Any, inputs: list[jax.Array]) -> tuple[jax.Array, Found]:
        outputs = _outputs(place, model.apply(variables, argument(inputs)), inputs, list(manifest["outputs"]))
        cotangents = [
            drawn(manifest["cotangent_seed"] + index, shape, dtype)
            for index, shape in enumerate(manifest["outputs"].values())
        ]
        ordered = (outputs[name] for name in manifest["outputs"])
        return sum((x * r).sum() for x, r in zip(ordered, cotangents, strict=True)), outputs

    (loss, outputs), (of_variables, of_inputs) = jax.value_and_grad(run, (0, 1), has_aux=True)(variables, inputs)
    found = {"loss": loss, **{f"out/{name}": value for name, value in outputs.items()}}
    found |= {f"dx/{index}": gradient for index, gradient in enumerate(of_inputs)}
    for path, gradient in flatten_dict(of_variables, sep="/").items():
        name, value = short[path], to_layout(np.asarray(gradient), places[path], names[places[path]], SOURCE)
        if {f"grad/{name}", f"grad/{name}64"} & set(fixture.keys):
            found[f"grad/{name}"] = value
        else:
            found[f"gradsample/{name}"] = sample(value)
            found[f"gradnorm/{name}"] = np.linalg.norm(value.astype(np.float64))
    return found


def _detections(boxes: Any, scores: Any, labels: Any, counts: Any) -> Found:
    found: Found = {}
    for image, count in enumerate(np.asarray(counts)):
        found[f"boxes/{image}"], found[f"scores/{image}"] = boxes[image, :count], scores[image, :count]
        if labels is not None:
            found[f"labels/{image}"] = labels[image, :count]
    return found


def retinanet_postprocess(fixture: Fixture, dtype: Any) -> Found:
    manifest = fixture.manifest
    found = jax.jit(
        partial(
            d.select_from_anchors,
            counts=manifest["anchors_per_map"],
            candidates=manifest["topk_candidates"],
            score_threshold=manifest["score_thresh"],
            nms_threshold=manifest["nms_thresh"],
            detections=manifest["detections_per_img"],
            min_side=None,
            clamp_both=False,
        )
    )(
        given(fixture, "cls_logits", dtype),
        given(fixture, "bbox_regression", dtype),
        given(fixture, "anchors", dtype),
        jnp.asarray(manifest["image_sizes"]),
    )
    return _detections(*found)


def rpn_postprocess(fixture: Fixture, dtype: Any) -> Found:
    manifest = fixture.manifest
    boxes, scores, valid = jax.jit(
        partial(
            d.select_proposals,
            counts=manifest["anchors_per_map"],
            candidates=manifest["pre_nms_top_n"],
            proposals=manifest["post_nms_top_n"],
            nms_threshold=manifest["nms_thresh"],
            score_threshold=manifest["score_thresh"],
            min_side=1e-3,
            clamp_both=False,
        )
    )(
        given(fixture, "objectness", dtype),
        given(fixture, "deltas", dtype),
        given(fixture, "anchors", dtype),
        jnp.asarray(manifest["image_sizes"]),
    )
    return _detections(boxes, scores, None, valid.sum(1))


def _padded(arrays: list[Any], count: int) -> jax.Array:
    """Arrays (k_i, ...) of images as one, (b, count, ...)."""
    return jnp.stack([jnp.pad(x, ((0, count - len(x)), *((0, 0),) * (x.ndim - 1))) for x in arrays])


def roi_heads_postprocess(fixture: Fixture, dtype: Any) -> Found:
    manifest = fixture.manifest
    images = range(len(manifest["image_sizes"]))
    regions = [given(fixture, f"proposals/{image}", dtype) for image in images]
    counts = [len(each) for each in regions]
    logits, deltas = (given(fixture, key, dtype) for key in ("class_logits", "box_regression"))
    deltas = deltas.reshape(len(deltas), -1, 4)
    starts = np.cumsum([0, *counts])
    most = max(counts)
    parts = [
        _padded([values[starts[image] : starts[image + 1]] for image in images], most) for values in (logits, deltas)
    ]
    boxes, scores, labels, found = jax.jit(
        partial(
            d.select_from_regions,
            box_weights=manifest["bbox_reg_weights"],
            background_first=True,
            score_threshold=manifest["score_thresh"],
            nms_threshold=manifest["nms_thresh"],
            detections=manifest["detections_per_img"],
            min_side=0.01,
            clamp_both=False,
        )
    )(
        *parts,
        _padded(regions, most),
        jnp.arange(most)[None] < jnp.asarray(counts)[:, None],
        jnp.asarray(manifest["image_sizes"]),
    )
    return _detections(boxes, scores, labels + 1, found)


def _truth(fixture: Fixture, dtype: Any, boxes: str, labels: str | None, images: int = 2) -> dict[str, jax.Array]:
    """The ground truth as a batch."""
    every = [given(fixture, f"{boxes}/{image}", dtype) for image in range(images)]
    most = max(1, *map(len, every))
    of_image = [
        given(fixture, f"{labels}/{image}", dtype) if labels else jnp.zeros(len(every[image]), jnp.int32)
        for image in range(images)
    ]
    counts = jnp.asarray([len(each) for each in every])
    return {
        "boxes": _padded(every, most),
        "label": _padded(of_image, most).astype(jnp.int32),
        "present": jnp.arange(most)[None] < counts[:, None],
        "image": jnp.zeros((images, 1, 1, 3)),
    }


ALL = 1_000_000
"""Samples of an image where nothing is left out."""


def _rcnn_loss() -> d.RCNNLoss:
    everything = {"anchor_samples": ALL, "region_samples": ALL, "region_fraction": 0.5}
    return dataclasses.replace(d.RCNNLoss.torchvision(), **everything)


def retinanet_loss(fixture: Fixture, dtype: Any) -> Found:
    logits, deltas, anchors = (given(fixture, key, dtype) for key in ("cls_logits", "bbox_regression", "anchors"))
    batch, loss = _truth(fixture, dtype, "gt", "gt_labels"), d.RetinaLoss.torchvision()
    terms = jax.jit(lambda logits, deltas: loss.terms(logits, deltas, anchors, batch))
    values = terms(logits, deltas)
    of = lambda name, index: jax.grad(lambda *x: terms(*x)[name], index)(logits, deltas)  # noqa: E731
    matcher = jax.vmap(
        lambda boxes, valid: d.match(d.box_iou(boxes, anchors), 0.5, 0.4, low_quality="own", valid=valid)
    )
    return {
        "matched_index": matcher(batch["boxes"], batch["present"]),
        "classification": values["class_loss"],
        "bbox_regression_loss": values["box_loss"],
        "grad_cls_logits": of("class_loss", 0),
        "grad_bbox_regression": of("box_loss", 1),
    }


def rpn_loss(fixture: Fixture, dtype: Any) -> Found:
    objectness, deltas, anchors = (given(fixture, key, dtype) for key in ("objectness", "deltas", "anchors"))
    batch, loss = _truth(fixture, dtype, "gt", None), _rcnn_loss()
    terms = jax.jit(lambda objectness, deltas: loss.anchor_terms(None, objectness, deltas, anchors, batch))
    values = terms(objectness, deltas)
    of = lambda name, index: jax.grad(lambda *x: terms(*x)[name], index)(objectness, deltas)  # noqa: E731
    matcher = jax.vmap(
        lambda boxes, valid: d.match(d.box_iou(boxes, anchors), 0.7, 0.3, low_quality="own", valid=valid)
    )
    matches = np.asarray(matcher(batch["boxes"], batch["present"]))
    images, rows = np.nonzero(matches >= 0)
    return {
        "labels": np.where(matches >= 0, 1, np.where(matches == d.NEGATIVE, 0, -1)),
        "regression_targets_positive": d.encode_boxes(batch["boxes"][images, matches[images, rows]], anchors[rows]),
        "loss_objectness": values["objectness_loss"],
        "loss_rpn_box_reg": values["proposal_loss"],
        "grad_objectness": of("objectness_loss", 0),
        "grad_deltas": of("proposal_loss", 1),
    }


class _Options:
    """What the loss asks of a net."""

    background_first, aligned, box_weights = True, False, (10.0, 10.0, 5.0, 5.0)


def roi_heads_loss(fixture: Fixture, dtype: Any) -> Found:
    manifest, loss = fixture.manifest, _rcnn_loss()
    rows = manifest["rows_per_image"]
    proposals = [given(fixture, f"proposals/{image}", dtype) for image in range(len(rows))]
    batch = _truth(fixture, dtype, "gt", "gt_labels", len(rows))
    batch["label"] = batch["label"] - 1
    most = max(map(len, proposals))
    valid = jnp.arange(most)[None] < jnp.asarray([len(each) for each in proposals])[:, None]
    regions = jax.jit(partial(loss.regions, None))(_padded(proposals, most), valid, batch)
    classes, total = manifest["classes"], sum(rows)
    logits = drawn(manifest["logits_seed"], [total, classes], dtype)
    deltas = drawn(manifest["logits_seed"] + 1, [total, 4 * classes], jnp.float32) * jnp.float32(0.5)
    # Rows of the reference are proposals and ground truth in order, ours positive regions first.
    every = [jnp.concatenate([each, given(fixture, f"gt/{i}", dtype)]) for i, each in enumerate(proposals)]
    starts = np.cumsum([0, *rows])
    place = np.zeros(regions["matches"].shape, int)
    for image, boxes in enumerate(every):
        unused = list(range(len(boxes)))
        for slot in np.flatnonzero(regions["sampled"][image]):
            row = next(r for r in unused if (boxes[r] == regions["boxes"][image, slot]).all())
            unused.remove(row)
            place[image, slot] = starts[image] + row
        assert not unused

    def terms(logits: jax.Array, deltas: jax.Array) -> dict[str, jax.Array]:
        outputs = {"class_logits": logits[place], "box_deltas": deltas.reshape(total, classes, 4)[place]}
        return loss.region_terms(_Options, outputs, regions, batch)

    deltas = deltas.astype(dtype)
    values = jax.jit(terms)(logits, deltas)
    of = lambda name, index: jax.grad(lambda *x: terms(*x)[name], index)(logits, deltas)  # noqa: E731
    sampled = np.asarray(regions["sampled"])
    matched, labels = np.zeros(total, int), np.zeros(total, int)
    matches = np.asarray(regions["matches"])
    label = np.take_along_axis(np.asarray(batch["label"]), np.maximum(matches, 0), 1) + 1
    labels[place[sampled]] = np.where(matches >= 0, label, 0)[sampled]
    matched[place[sampled]] = np.maximum(matches, 0)[sampled]
    negative = labels == 0
    expected = fixture.arrays["matched_index"]
    np.testing.assert_array_equal(matched[~negative], expected[~negative])
    rows_of = np.flatnonzero(~negative)
    image_of = np.searchsorted(starts, rows_of, "right") - 1
    boxes_of = jnp.concatenate(every)[rows_of]
    targets = d.encode_boxes(batch["boxes"][image_of, matched[rows_of]], boxes_of, _Options.box_weights)
    return {
        "labels": labels,
        "regression_targets_positive": targets,
        "loss_classifier": values["class_loss"],
        "loss_box_reg": values["box_loss"],
        "grad_class_logits": of("class_loss", 0),
        "grad_box_regression": of("box_loss", 1),
    }


def mask_loss(fixture: Fixture, dtype: Any) -> Found:
    manifest, loss = fixture.manifest, _rcnn_loss()
    images = [0, 1]
    proposals = [given(fixture, f"proposals/{image}", dtype) for image in images]
    matches = [given(fixture, f"matched_index/{image}", dtype).astype(jnp.int32) for image in images]
    masks = [given(fixture, f"gt_masks/{image}", dtype) for image in images]
    labels = [given(fixture, f"gt_labels/{image}", dtype).astype(jnp.int32) - 1 for image in images]
    most, objects = max(map(len, proposals)), max(map(len, masks))
    valid = jnp.arange(most)[None] < jnp.asarray([len(each) for each in proposals])[:, None]
    regions = {
        "boxes": _padded(proposals, most),
        "matches": jnp.where(valid, _padded(matches, most), d.NEGATIVE),
    }
    height, width = manifest["image_size"]
    batch = {
        "image": jnp.zeros((2, height, width, 3)),
        "masks": _padded(masks, objects),
        "label": _padded(labels, objects),
    }
    counts = [len(each) for each in proposals]
    logits = drawn(manifest["logits_seed"], [sum(counts), 14, 14, manifest["classes"]], dtype)

    def term(logits: jax.Array) -> jax.Array:
        parts = [logits[: counts[0]], logits[counts[0] :]]
        return loss.mask_term(_Options, _padded(parts, most), regions, batch)

    value, gradient = jax.jit(jax.value_and_grad(term))(logits)
    return {"loss_mask": value, "grad_mask_logits": gradient}


MODULES: Produce = module
POSTPROCESS: dict[str, tuple[Produce, list[str]]] = {
    "retinanet": (retinanet_postprocess, ["anchors", "cls_logits", "bbox_regression"]),
    "rpn": (rpn_postprocess, ["anchors", "objectness", "deltas"]),
    "roi_heads": (roi_heads_postprocess, [r"proposals/\d+", "class_logits", "box_regression"]),
}
LOSSES: dict[str, tuple[Produce, list[str]]] = {
    "retinanet": (retinanet_loss, ["anchors", "cls_logits", "bbox_regression", r"gt(_labels)?/\d+"]),
    "rpn": (rpn_loss, ["anchors", "objectness", "deltas", r"gt/\d+"]),
    "roi_heads": (roi_heads_loss, [r"(proposals|gt|gt_labels)/\d+", "matched_index"]),
    "mask": (mask_loss, [r"(gt_masks|gt_labels|matched_index|proposals)/\d+"]),
}
"""By family: what computes the values, and the keys that are inputs."""
