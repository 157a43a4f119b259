"""Whole detectors: what they compute in evaluation and in one training step, by key."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from attnjax import Partial
from attnjax import detection as d
from attnjax.attention import CBAM, PyramidSqueezeAttention, SqueezeExcite
from attnjax.convert._mapping import leaf_shapes, read_entries, to_layout
from attnjax.models import BasicBlock, Bottleneck, ResNet
from tests.golden.detection_parts import ALL, SOURCE, numbers
from tests.golden.reference import Fixture, sample

Found = dict[str, Any]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_DEPTHS = {18: ((2, 2, 2, 2), BasicBlock), 34: ((3, 4, 6, 3), BasicBlock), 50: ((3, 4, 6, 3), Bottleneck)}
_DEPTHS |= {101: ((3, 4, 23, 3), Bottleneck), 152: ((3, 8, 36, 3), Bottleneck)}
_TERMS = {
    "classification": "class_loss",
    "bbox_regression": "box_loss",
    "loss_classifier": "class_loss",
    "loss_box_reg": "box_loss",
    "loss_objectness": "objectness_loss",
    "loss_rpn_box_reg": "proposal_loss",
    "loss_mask": "mask_loss",
}


def _backbone(constructor: str) -> Any:
    found = re.search(r"(resnet|epsanet)(\d+)", constructor)
    assert found, f"not mapped: {constructor}"
    depth, block = _DEPTHS[int(found[2])]
    options: dict[str, Any] = {}
    if found[1] == "epsanet":
        options["spatial_conv"] = Partial(PyramidSqueezeAttention, groups=(1, 4, 8, 16))
    elif "cbam" in constructor.lower():
        options["attention"] = Partial(CBAM, reduction=16)
    elif re.search(r"\bse_?resnet", constructor.lower()):
        options["attention"] = Partial(SqueezeExcite, reduction=16)
    return Partial(ResNet, depth, block, **options)


def build(fixture: Fixture, dtype: Any) -> tuple[Any, Any]:
    """Our net of a fixture, and its loss."""
    manifest = fixture.manifest
    constructor, settings = manifest["constructor"], manifest["settings"]
    frozen = "FrozenBatchNorm2d" in constructor
    options: dict[str, Any] = {
        "dtype": dtype,
        "param_dtype": dtype,
        "frozen_norms": frozen,
        "freeze_batch_norm": frozen,
    }
    options["frozen_stages"] = 1 if frozen else 0
    if found := re.search(r"out_channels=(\d+)", constructor):
        options["channels"] = int(found[1])
    if found := re.search(r"anchors \((.*?)\)\) x", constructor):
        options["anchor_sizes"] = tuple((size,) for size in numbers(found[1]))
    backbone = _backbone(constructor)
    if manifest["family"] == "retinanet":
        options = (
            d.RETINANET_TORCHVISION
            | options
            | {
                "score_threshold": settings["score_thresh"],
                "nms_threshold": settings["nms_thresh"],
                "max_detections": settings["detections_per_img"],
                "candidates": settings["topk_candidates"],
            }
        )
        if found := re.search(r"LastLevelP6P7\((\d+), (\d+)\)", constructor):
            options["extra_from"] = "output" if found[1] == found[2] else "input"
        return d.RetinaNet(backbone, manifest["num_classes"], **options), d.RetinaLoss.torchvision()
    before, after = settings["rpn._pre_nms_top_n"], settings["rpn._post_nms_top_n"]
    options = (
        d.RCNN_TORCHVISION
        | options
        | {
            "train_candidates": before["training"],
            "test_candidates": before["testing"],
            "train_proposals": after["training"],
            "test_proposals": after["testing"],
            "proposal_nms_threshold": settings["rpn.nms_thresh"],
            "nms_threshold": settings["roi_heads.nms_thresh"],
            "max_detections": settings["roi_heads.detections_per_img"],
            "score_threshold": settings["roi_heads.score_thresh"],
        }
    )
    if found := re.search(r"TwoMLPHead\([\d*]+, (\d+)\)", constructor):
        options["box_hidden"] = int(found[1])
    net: Any = d.FasterRCNN
    if manifest["family"] == "mask_rcnn":
        net = d.MaskRCNN
        if found := re.search(r"MaskRCNNHeads\(\d+, \(([\d, ]+)\)", constructor):
            options["mask_widths"] = tuple(numbers(found[1]))
        if found := re.search(r"MaskRCNNPredictor\(\d+, (\d+)", constructor):
            options["mask_upsample_width"] = int(found[1])
    loss = d.RCNNLoss.torchvision()
    everything = {"anchor_samples": ALL, "region_samples": ALL, "region_fraction": 0.5}
    return net(backbone, manifest["num_classes"] - 1, **options), dataclasses.replace(loss, **everything)


def inputs(fixture: Fixture, dtype: Any) -> tuple[jax.Array, list[tuple[int, int]]]:
    """The padded batch and the sizes of its images, from the stored images."""
    manifest = fixture.manifest
    short, long = (int(re.search(rf"{name}_size=(\d+)", manifest["constructor"])[1]) for name in ("min", "max"))
    _, height, width, _ = manifest["batch_shape"]
    images, sizes = [], []
    for index, size in enumerate(manifest["image_sizes"]):
        image = fixture.arrays[f"image/{index}"].astype(dtype) / 256
        image = (image - np.asarray(MEAN, dtype)) / np.asarray(STD, dtype)
        target = d.resized_size(tuple(size), short, long, rounding="down")
        assert list(target) == manifest["eval_resized_sizes"][index]
        sizes.append(target)
        padding = ((0, height - target[0]), (0, width - target[1]), (0, 0))
        images.append(np.pad(d.resize_image(image, target), padding))
    return jnp.asarray(np.stack(images), dtype), sizes


def weights(fixture: Fixture, net: Any, shape: tuple[int, ...], dtype: Any) -> tuple[Any, dict[str, str]]:
    """The variables of the net, and the reference's names of their leaves."""
    shapes = leaf_shapes(net, shape)
    names = SOURCE.names(shapes, net)
    leaves, wrong = read_entries(fixture.state_dict(), names, shapes, SOURCE)
    assert not wrong, wrong.describe()
    return unflatten_dict({path: jnp.asarray(leaf, dtype) for path, leaf in leaves.items()}, sep="/"), names


def evaluated(fixture: Fixture, net: Any, variables: Any, images: jax.Array, sizes: jax.Array) -> Found:
    manifest = fixture.manifest
    original = jnp.asarray(manifest["image_sizes"])

    @jax.jit
    def run(variables: Any) -> Any:
        def forward(net: Any) -> Any:
            stages = net._backbone.features(images, train=False)
            maps = net.maps(images, train=False)
            if manifest["family"] == "retinanet":
                outputs = net.outputs(maps)
                return stages, maps, outputs, net.select(images, maps, outputs, sizes, original)
            outputs = net.propose(maps)
            regions, valid = net.proposals(images.shape[1:3], maps, outputs, sizes, train=False)
            pooled = net.pool(maps, regions, (7, 7))
            outputs |= {"regions": regions, "valid": valid, "pooled": pooled, **net.classify(maps, regions)}
            detections = net.select(maps, regions, valid, outputs, sizes, original)
            if detections.masks is not None:
                outputs["mask_logits"] = net.segment(maps, detections.boxes)
            return stages, maps, outputs, detections

        return net.apply(variables, method=forward)

    stages, maps, outputs, detections = run(variables)
    found: Found = {}

    def summary(name: str, value: Any) -> None:
        value = np.asarray(value)
        found[f"{name}/stats"] = np.array([value.mean(dtype=np.float64), value.std(dtype=np.float64)])
        found[f"{name}/sample"] = sample(value)

    summary("eval/batch", images)
    first = net.first_level - 1
    for index, level in enumerate(manifest["body_levels"]):
        summary(f"eval/body/{level}", stages[f"stage{first + index}"])
    for level, of_pyramid in zip(manifest["fpn_levels"], maps, strict=True):
        summary(f"eval/fpn/{level}", of_pyramid)
    found["anchors"] = net.anchors_of(images.shape[1:3], [(x.shape[1], x.shape[2]) for x in maps])
    counts = np.asarray(detections.count)
    if manifest["family"] == "retinanet":
        found["eval/raw/cls_logits"], found["eval/raw/bbox_regression"] = outputs["class_logits"], outputs["box_deltas"]
    else:
        valid = np.asarray(outputs["valid"])
        found["eval/raw/rpn_objectness"] = outputs["objectness"]
        found["eval/raw/rpn_deltas"] = outputs["anchor_deltas"]
        found["eval/raw/class_logits"] = outputs["class_logits"][valid]
        found["eval/raw/box_regression"] = outputs["box_deltas"][valid].reshape(valid.sum(), -1)
        for image in range(len(valid)):
            found[f"eval/proposals/{image}"] = outputs["regions"][image][valid[image]]
        summary("eval/box_pool", outputs["pooled"][valid])
    background = int(manifest["family"] != "retinanet")
    for image, count in enumerate(counts):
        if background:
            found[f"eval/boxes_resized/{image}"] = detections.boxes[image, :count]
        found[f"eval/boxes/{image}"] = boxes = detections.original_boxes[image, :count]
        found[f"eval/scores/{image}"] = detections.scores[image, :count]
        found[f"eval/labels/{image}"] = detections.classes[image, :count] + background
        if detections.masks is not None:
            found[f"eval/mask_probs/{image}"] = masks = detections.masks[image, :count]
            pasted = np.asarray(d.paste_masks(masks, boxes, tuple(manifest["image_sizes"][image]), rounded=True))
            found[f"eval/masks_every4/{image}"] = pasted[:, ::4, ::4]
            found[f"eval/masks_half_bits/{image}"] = np.packbits(pasted > 0.5, axis=-1)
    if "mask_logits" in outputs:
        logits = [outputs["mask_logits"][image, :count] for image, count in enumerate(counts)]
        summary("eval/mask_logits", np.concatenate(logits))
    return found


def _padded(arrays: list[np.ndarray]) -> np.ndarray:
    most = max(map(len, arrays))
    return np.stack([np.pad(x, ((0, most - len(x)), *((0, 0),) * (x.ndim - 1))) for x in arrays])


def truth(fixture: Fixture, images: jax.Array, sizes: list[tuple[int, int]], dtype: Any) -> dict[str, jax.Array]:
    """The ground truth of the images as a batch."""
    boxes, labels, masks = [], [], []
    background = int(fixture.manifest["family"] != "retinanet")
    for image, (size, target) in enumerate(zip(fixture.manifest["image_sizes"], sizes, strict=True)):
        boxes.append(d.scale_boxes(fixture.arrays[f"train/gt_boxes/{image}"].astype(dtype), size, target))
        labels.append(fixture.arrays[f"train/gt_labels/{image}"].astype(np.int32) - background)
        if f"train/gt_masks_bits/{image}" in fixture.keys:
            bits = np.unpackbits(fixture.arrays[f"train/gt_masks_bits/{image}"], axis=-1)[..., : size[1]]
            room = [full - side for full, side in zip(images.shape[1:3], target, strict=True)]
            edge = [(0, 0), *((0, min(1, free)) for free in room)]  # torchvision's masks end with the image
            masks.append(np.pad(d.resize_masks(bits, target), edge, mode="edge"))
            masks[-1] = np.pad(masks[-1], [(0, 0), *((0, max(0, free - 1)) for free in room)])
    batch = {
        "image": images,
        "size": jnp.asarray(sizes),
        "boxes": jnp.asarray(_padded(boxes)),
        "label": jnp.asarray(_padded(labels)),
        "present": jnp.asarray(_padded([np.ones(len(each), bool) for each in boxes])),
    }
    return batch | {"masks": jnp.asarray(_padded(masks))} if masks else batch


def trained(fixture: Fixture, net: Any, loss: Any, variables: Any, names: dict[str, str], batch: Any) -> Found:
    manifest = fixture.manifest
    matched = (re.fullmatch(r"train/loss/([a-z_]+?)(64)?", key) for key in fixture.keys)
    terms = {match[1]: f"train/loss/{match[1]}" for match in matched if match}

    @jax.jit
    def run(variables: Any) -> Any:
        def of_params(params: Any) -> Any:
            value, aux = loss(net, variables | {"params": params}, batch, train=True)
            return value, aux

        return jax.value_and_grad(of_params, has_aux=True)(variables["params"])

    (_, aux), gradients = run(variables)
    found: Found = {terms[name]: np.asarray(aux.sums[_TERMS[name]]) / np.asarray(aux.sums["count"]) for name in terms}
    found |= _decisions(fixture, net, loss, variables, batch)
    flat = flatten_dict({"params": gradients}, sep="/")
    values = {names[path]: to_layout(np.asarray(g), path, names[path], SOURCE) for path, g in flat.items()}
    frozen = set(manifest["frozen"])
    for name in frozen:
        assert not values[name].any(), f"{name} is frozen"
    norms = {
        name: np.nan if name in frozen else np.linalg.norm(values[name].astype(np.float64))
        for name in manifest["params"]
    }
    found["train/grad_norm"] = np.array([norms[name] for name in manifest["params"]])
    groups = []
    for group in manifest["groups"]:
        prefix = r"backbone\.body\.(conv1|bn1)\." if group == "backbone.body.stem" else re.escape(group) + r"\."
        of_group = [norm for name, norm in norms.items() if re.match(prefix, name) and not np.isnan(norm)]
        groups.append(np.sqrt(np.sum(np.square(of_group))))
    found["train/group_norm"] = np.array(groups)
    found |= {f"train/grad/{name}": sample(values[name]) for name in manifest["grad_samples"]}
    statistics = flatten_dict({"batch_stats": aux.updates.get("batch_stats", variables["batch_stats"])}, sep="/")
    buffers = {names[path]: np.linalg.norm(np.asarray(leaf, np.float64)) for path, leaf in statistics.items()}
    params = flatten_dict({"params": variables["params"]}, sep="/")
    buffers |= {names[path]: np.linalg.norm(np.asarray(leaf, np.float64)) for path, leaf in params.items()}
    found["train/buffer_norm"] = np.array([buffers[name] for name in manifest["buffer_norm_order"]])
    return found


def _decisions(fixture: Fixture, net: Any, loss: Any, variables: Any, batch: Any) -> Found:
    """Which anchors and regions of a training step are positive."""
    images, found = batch["image"], {}

    @jax.jit
    def run(variables: Any) -> Any:
        def forward(net: Any) -> Any:
            maps = net.maps(images, batch["size"], train=True)
            sides = [(x.shape[1], x.shape[2]) for x in maps]
            anchors = jnp.asarray(net.anchors_of(images.shape[1:3], sides), images.dtype)
            if fixture.manifest["family"] == "retinanet":
                return anchors, None, None
            regions, valid = net.proposals(images.shape[1:3], maps, net.propose(maps), batch["size"], train=True)
            return anchors, regions, valid

        return net.apply(variables, method=forward, mutable=["batch_stats"])[0]

    anchors, regions, valid = run(variables)
    for image in range(len(images)):
        present = batch["present"][image]
        truth = batch["boxes"][image]
        quality = d.box_iou(truth, anchors)
        if regions is None:
            options = {"high": loss.high, "low": loss.low, "low_quality": loss.low_quality, "valid": present}
            found[f"train/matched/{image}"] = d.match(quality, **options)
            continue
        options = {"high": loss.anchor_high, "low": loss.anchor_low, "low_quality": loss.anchor_low_quality}
        matches = np.asarray(d.match(quality, valid=present, **options))
        found[f"train/rpn_labels/{image}"] = np.where(matches >= 0, 1, np.where(matches == d.NEGATIVE, 0, -1))
        boxes = jnp.concatenate([regions[image][valid[image]], truth[present]])
        found[f"train/roi_proposals/{image}"] = boxes
        matches = d.match(d.box_iou(truth, boxes), loss.region_high, loss.region_high, valid=present)
        labels = batch["label"][image][jnp.maximum(matches, 0)] + 1
        found[f"train/roi_labels/{image}"] = jnp.where(matches >= 0, labels, 0)
        found[f"train/roi_matched/{image}"] = jnp.maximum(matches, 0)
    return found


def net(fixture: Fixture, dtype: Any) -> Found:
    model, loss = build(fixture, dtype)
    images, sizes = inputs(fixture, dtype)
    variables, names = weights(fixture, model, images.shape, dtype)
    counted = {
        name for path, name in names.items() if path.startswith("params/") and name in fixture.manifest["params"]
    }
    assert counted == set(fixture.manifest["params"])
    found = evaluated(fixture, model, variables, images, jnp.asarray(sizes))
    return found | trained(fixture, model, loss, variables, names, truth(fixture, images, sizes, dtype))


INPUTS = [r"image/\d+", r"train/gt_(boxes|labels|masks_bits)/\d+"]
