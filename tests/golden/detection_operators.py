"""What each family of operator fixtures computes, by key."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from attnjax import detection as d
from tests.golden.detection_fixtures import Produce, drawn, given
from tests.golden.reference import Fixture

Found = dict[str, Any]


def _gradient(value: Callable[..., jax.Array], *arguments: Any, of: int = 0) -> jax.Array:
    return jax.grad(lambda *arguments: value(*arguments).sum(), of)(*arguments)


def _in_float64(produce: Produce, fixture: Fixture) -> Found:
    """What float64 gives under keys of its own."""
    with jax.enable_x64(True):
        return produce(fixture, jnp.float64)


def anchors(fixture: Fixture, dtype: Any) -> Found:
    manifest, found = fixture.manifest, {}
    maps, config = [tuple(size) for size in manifest["map_sizes"]], manifest["mmdet_config"]
    strides = {"": manifest["torchvision_strides"], "mmdet_": [(s, s) for s in manifest["nominal_strides"]]}
    if "scales" in config:
        torchvision = [[8 * stride] for stride in manifest["nominal_strides"]]
        sizes = {"": torchvision, "mmdet_": [[s * stride for s in config["scales"]] for stride, _ in strides["mmdet_"]]}
    else:
        octaves = range(config["scales_per_octave"])
        base = [config["octave_base_scale"] * stride for stride in manifest["nominal_strides"]]
        sizes = {
            "": [[int(size * 2 ** (octave / 3)) for octave in octaves] for size in base],
            "mmdet_": [[size * 2 ** (octave / len(octaves)) for octave in octaves] for size in base],
        }
    ratios = config["ratios"]
    for prefix, rounded in (("", True), ("mmdet_", False)):
        of_maps = [d.base_anchors(of_map, ratios, rounded=rounded) for of_map in sizes[prefix]]
        found[f"{prefix}base"] = np.concatenate(of_maps)
        every = d.anchors(maps, strides[prefix], sizes[prefix], ratios, rounded=rounded)
        assert len(every) == manifest["count"]
        if f"{prefix}anchors" in fixture.keys:
            found[f"{prefix}anchors"] = every
        else:
            found[f"{prefix}anchors_sample"] = every[fixture.arrays["sample_index"]]
            found[f"{prefix}anchors_column_sums"] = every.astype(np.float64).sum(0)
    return found


def box_coder(fixture: Fixture, dtype: Any) -> Found:
    manifest = fixture.manifest
    proposals, gt, deltas = (given(fixture, key, dtype) for key in ("proposals", "gt", "deltas"))
    weights, classes = manifest["weights"], manifest["classes"]

    def decoded(deltas: jax.Array, clamp_both: bool) -> jax.Array:
        deltas = deltas.reshape(len(deltas), classes, 4)
        return d.decode_boxes(deltas, proposals[:, None], weights, clamp_both=clamp_both)

    cotangent = drawn(manifest["cotangent_seed"], [len(gt), classes, 4], dtype)
    size = jnp.asarray(manifest["image_size"], dtype)
    encoded = d.encode_boxes(gt, proposals, weights)
    return {
        "encoded": encoded,
        "decoded": decoded(deltas, False),
        "grad_deltas": _gradient(lambda deltas: decoded(deltas, False) * cotangent, deltas),
        "mmdet/encoded": encoded,
        "mmdet/decoded": d.clip_boxes(decoded(deltas, True), size),
    }


def boxes(fixture: Fixture, dtype: Any) -> Found:
    a, b, degenerate = (given(fixture, key, dtype) for key in ("boxes1", "boxes2", "degenerate"))
    kinds = {"giou": "generalized", "diou": "distance", "ciou": "complete"}
    found: Found = {
        "area": d.box_area(a),
        "iou": d.box_iou(a, b),
        "giou": d.generalized_box_iou(a, b),
        "diou": d.distance_box_iou(a, b),
        "ciou": d.complete_box_iou(a, b),
        "clip_out": d.clip_boxes(given(fixture, "clip_in", dtype), jnp.asarray(fixture.manifest["image_size"])),
        "degenerate_iou": d.box_iou(degenerate, degenerate),
        "degenerate_giou": d.generalized_box_iou(degenerate, degenerate),
    }
    pairs = min(len(a), len(b))
    for name, kind in kinds.items():
        loss = partial(d.box_iou_loss, kind=kind)
        found[f"{name}_loss"] = loss(a[:pairs], b[:pairs])
        for index in range(2):
            found[f"{name}_loss_grad_boxes{index + 1}"] = _gradient(loss, a[:pairs], b[:pairs], of=index)
        if f"degenerate_{name}_loss" in fixture.keys:
            pairs_of_box = degenerate[jnp.array([0, 2])], degenerate[jnp.array([2, 2])]
            found[f"degenerate_{name}_loss"] = loss(*pairs_of_box)
    for form in ("xywh", "cxcywh"):
        found[f"convert_{form}"] = converted = d.convert_boxes(a, "xyxy", form)
        found[f"convert_back_{form}"] = d.convert_boxes(converted, form, "xyxy")
    small = given(fixture, "small_in", dtype)
    which = "small_keep" if dtype == jnp.float32 else "small_keep_from_float64"
    for key in fixture.keys:
        if key.startswith(f"{which}/"):
            (found[key],) = np.nonzero(d.has_sides(small, float(key.rpartition("/")[2])))
    if dtype == jnp.float32:
        found |= {key: value for key, value in _in_float64(boxes, fixture).items() if "from_float64" in key}
    return found


def level_mapping(fixture: Fixture, dtype: Any) -> Found:
    of = partial(d.map_levels, given(fixture, "boxes", dtype), (4, 8, 16, 32))
    end = "" if dtype == jnp.float32 else "_from_float64"
    found = {f"levels{end}": of(epsilon="outside"), f"mmdet_levels{end}": of(epsilon="inside")}
    return found if end else found | _in_float64(level_mapping, fixture)


def losses(fixture: Fixture, dtype: Any) -> Found:
    logits, targets, a, b = (given(fixture, key, dtype) for key in ("logits", "targets", "a", "b"))
    labels, found = given(fixture, "class_labels", dtype), {}
    for case in fixture.manifest["cases"]:
        name = case["case"]
        if "gamma" in case:
            alpha = None if case["alpha"] < 0 else case["alpha"]
            loss = partial(d.focal_loss, targets=targets, alpha=alpha, gamma=case["gamma"])
            found |= {f"{name}/mean": loss(logits).mean(), f"{name}/sum": loss(logits).sum()}
            values = logits
        else:
            loss, values = partial(d.smooth_l1, targets=b, beta=case["beta"]), a
        found |= {f"{name}/loss": loss(values), f"{name}/grad": _gradient(loss, values)}
    bce = partial(optax.sigmoid_binary_cross_entropy, labels=targets)
    found |= {"bce/loss": bce(logits), "bce/grad": _gradient(bce, logits)}
    cross = lambda logits: optax.softmax_cross_entropy_with_integer_labels(logits, labels)  # noqa: E731
    return found | {
        "cross_entropy/mean": cross(logits).mean(),
        "cross_entropy/grad": jax.grad(lambda logits: cross(logits).mean())(logits),
    }


def masks(fixture: Fixture, dtype: Any) -> Found:
    manifest = fixture.manifest
    every, probabilities = given(fixture, "gt_masks", dtype), given(fixture, "paste_probs", dtype)
    pasted = partial(d.paste_masks, probabilities, given(fixture, "paste_boxes", dtype), tuple(manifest["image_size"]))
    index, regions = given(fixture, "target_index", dtype)[None], given(fixture, "target_boxes", dtype)[None]
    side = manifest["mask_size"]
    targets = partial(d.mask_targets, every[None], index, regions, (side, side))
    return {
        "masks_to_boxes": d.masks_to_boxes(every),
        "pasted": pasted(rounded=True),
        "mmdet/pasted": pasted(),
        "mask_targets": targets(aligned=False, binary=False)[0],
        "mmdet/mask_targets": targets()[0],
    }


def matcher(fixture: Fixture, dtype: Any) -> Found:
    manifest, found = fixture.manifest, {}
    gt, every = given(fixture, "gt", dtype), given(fixture, "anchors", dtype)
    for prefix, valid in (("all", jnp.ones(len(gt), bool)), ("without_far", jnp.arange(len(gt)) < len(gt) - 1)):
        of = jax.jit(d.match, static_argnames=("high", "low", "low_quality", "min_quality"))
        quality = d.box_iou(gt, every)
        for name, (high, low, low_quality) in manifest["configs"].items():
            form = "own" if low_quality else "none"
            found[f"{prefix}/{name}"] = of(quality, high=high, low=low, low_quality=form, valid=valid)
        for name, config in manifest["mmdet_configs"].items():
            form = "asking" if config.get("match_low_quality", True) else "none"
            matches = of(
                quality,
                high=config["pos_iou_thr"],
                low=config["neg_iou_thr"],
                low_quality=form,
                min_quality=config["min_pos_iou"],
                valid=valid,
            )
            counted_from_one = jnp.where(matches >= 0, matches + 1, jnp.where(matches == d.IGNORED, -1, 0))
            found[f"{prefix}/mmdet/{name}"] = counted_from_one
    if "quality" in fixture.keys:
        for key in fixture.keys:
            if parts := re.fullmatch(r"quality_matches/([\d.]+)_([\d.]+)_(strict|low_quality)", key):
                form = "own" if parts[3] == "low_quality" else "none"
                high, low = float(parts[1]), float(parts[2])
                found[key] = d.match(given(fixture, "quality", dtype), high, low, low_quality=form)
    for case in manifest["sampler"]:
        labels = [case["labels"][name] for name in ("positive", "negative", "ignored")]
        kinds = jnp.repeat(jnp.arange(3), jnp.asarray(labels), total_repeat_length=sum(labels))
        drawn_ones = d.sample(
            jax.random.key(0), kinds == 0, kinds == 1, case["batch_size_per_image"], case["positive_fraction"]
        )
        assert [int(each.sum()) for each in drawn_ones] == [case["sampled_positive"], case["sampled_negative"]]
        assert not (drawn_ones[0] & (kinds != 0)).any()
        assert not (drawn_ones[1] & (kinds != 1)).any()
    return found


def nms(fixture: Fixture, dtype: Any) -> Found:
    found: Found = {}

    def kept(boxes: jax.Array, scores: jax.Array, threshold: float, classes: jax.Array | None) -> np.ndarray:
        of = jax.jit(partial(d.nms, threshold=threshold))
        if classes is not None:
            of = jax.jit(partial(d.batched_nms, classes=classes, threshold=threshold))
        indices, count = of(boxes, scores)
        assert not indices[count:].any()
        return np.asarray(indices[:count])

    if "thresholds" in fixture.manifest:
        inputs = [given(fixture, key, dtype) for key in ("boxes", "scores")]
        classes = given(fixture, "idxs", dtype) if "idxs" in fixture.keys else None
        for threshold in fixture.manifest["thresholds"]:
            name = f"thr_{threshold}/" + ("keep" if classes is None else "per_class")
            found[name] = kept(*inputs, threshold, classes)
        return found
    for case in fixture.manifest["cases"]:
        inputs = [given(fixture, f"{case['case']}/{key}", dtype) for key in ("boxes", "scores")]
        indices = kept(*inputs, case["iou_threshold"], None)
        found[f"{case['case']}/keep" + ("" if dtype == jnp.float32 else "_float64")] = indices
    return found | _in_float64(nms, fixture) if dtype == jnp.float32 else found


def roi_align(fixture: Fixture, dtype: Any) -> Found:
    manifest, rois = fixture.manifest, given(fixture, "rois", dtype)
    features = drawn(manifest["features"]["seed"], manifest["features"]["shape"], dtype)
    size, found = tuple(manifest["output_size"]), {}
    shape = [len(rois), *size, features.shape[-1]]
    cotangent, image = drawn(manifest["cotangent_seed"], shape, dtype), rois[:, 0].astype(int)
    for case in manifest["cases"]:
        options = {"scale": manifest["spatial_scale"], "sampling_ratio": case["sampling_ratio"]}

        @jax.jit
        def pooled(features: jax.Array, case: Any = case, options: Any = options) -> jax.Array:
            boxes = jnp.broadcast_to(rois[None, :, 1:], (len(features), len(rois), 4))
            every = d.roi_align(features, boxes, size, aligned=case["aligned"], **options)
            return every[image, jnp.arange(len(rois))]

        found[f"{case['case']}/out"] = pooled(features)
        found[f"{case['case']}/grad"] = _gradient(lambda features: pooled(features) * cotangent, features)
    return found


def multiscale_roi_align(fixture: Fixture, dtype: Any) -> Found:
    manifest = fixture.manifest
    features = [drawn(each["seed"], each["shape"], dtype) for each in manifest["features"]]
    boxes = jnp.stack([given(fixture, f"boxes/{image}", dtype) for image in range(len(manifest["image_sizes"]))])
    canonical = {"canonical_size": manifest["canonical_scale"], "canonical_level": manifest["canonical_level"]}
    levels = {"strides": manifest["strides"], "epsilon": "outside", **canonical}

    @jax.jit
    def pooled(features: list[jax.Array]) -> jax.Array:
        size = tuple(manifest["output_size"])
        ratio = manifest["sampling_ratio"]
        every = d.multiscale_roi_align(features, boxes, size, sampling_ratio=ratio, aligned=False, **levels)
        return every.reshape(-1, *every.shape[2:])

    out = pooled(features)
    cotangent = drawn(manifest["cotangent_seed"], list(out.shape), dtype)
    gradients = jax.grad(lambda features: (pooled(features) * cotangent).sum())(features)
    found = {"out": out, "levels": d.map_levels(boxes.reshape(-1, 4), **levels)}
    return found | {f"grad/{i}": gradient for i, gradient in enumerate(gradients)}


def transform(fixture: Fixture, dtype: Any) -> Found:
    manifest, found = fixture.manifest, {}
    for h, w, short, long, *expected in manifest["sizes_table"]:
        sizes = [d.resized_size((h, w), short, long, rounding=rounding) for rounding in ("down", "nearest")]
        assert [side for size in sizes for side in size] == expected
    _, height, width, _ = manifest["batch_shape"]
    batch = []
    for i, (seed, size) in enumerate(zip(manifest["seeds"], manifest["image_sizes"], strict=True)):
        noise = np.asarray(drawn(seed, [*size, 3], jnp.float32))
        image = np.clip(np.float32(0.5) + np.float32(0.25) * noise, 0, 1).astype(dtype)
        mean, std = (np.asarray(manifest[f"image_{name}"], dtype) for name in ("mean", "std"))
        target = d.resized_size(tuple(size), manifest["min_size"], manifest["max_size"], rounding="down")
        assert list(target) == manifest["resized_sizes"][i]
        image = d.resize_image((image - mean) / std, target)
        batch.append(np.pad(image, ((0, height - target[0]), (0, width - target[1]), (0, 0))))
        arrays = fixture.arrays
        found[f"resized_boxes/{i}"] = d.scale_boxes(arrays[f"boxes/{i}"].astype(dtype), size, target)
        found[f"resized_masks/{i}"] = d.resize_masks(arrays[f"masks/{i}"], target)
        found[f"detections_in_original/{i}"] = d.scale_boxes(arrays[f"detections/{i}"].astype(dtype), target, size)
    return found | {"batch": np.stack(batch)}


FAMILIES: dict[str, tuple[Produce, list[str]]] = {
    "anchors": (anchors, ["sample_index"]),
    "box_coder": (box_coder, ["proposals", "gt", "deltas"]),
    "boxes": (boxes, ["boxes[12]", "clip_in", "small_in", "degenerate"]),
    "level_mapping": (level_mapping, ["boxes"]),
    "losses": (losses, ["logits", "targets", "a", "b", "class_labels"]),
    "masks": (masks, ["gt_masks", "paste_boxes", "paste_probs", "target_index", "target_boxes"]),
    "matcher": (matcher, ["gt", "anchors", "quality"]),
    "multiscale_roi_align": (multiscale_roi_align, [r"boxes/\d+"]),
    "nms": (nms, ["boxes", "scores", "idxs", r"\w+/boxes", r"\w+/scores", r".*/(offset_trick|batched_nms)"]),
    "roi_align": (roi_align, ["rois"]),
    "transform": (transform, [r"(boxes|masks|detections)/\d+"]),
}
"""By family: what computes the values, and the keys that are inputs or other definitions of the same values."""
