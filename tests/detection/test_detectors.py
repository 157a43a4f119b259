"""RetinaNet, Faster R-CNN and Mask R-CNN: invariants of predictions and losses, on small nets."""

from __future__ import annotations

import dataclasses
from functools import partial
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import attnjax
from attnjax import Partial
from attnjax.attention import CBAM
from attnjax.detection import (
    FasterRCNN,
    MaskRCNN,
    RCNNLoss,
    RetinaLoss,
    RetinaNet,
    create_detector,
    select_from_regions,
)
from attnjax.models import BasicBlock, ResNet
from attnjax.training import TrainState, make_train_step, sgd
from tests.kinds import only_in_full

BACKBONE = Partial(ResNet, (1, 1, 1, 1), BasicBlock, widths=(8, 8, 16, 16), stem_width=8)
SMALL: dict[str, Any] = {"num_classes": 3, "channels": 8, "max_detections": 6, "score_threshold": 0.0}
REGIONS = {"box_hidden": 16, "train_candidates": 40, "test_candidates": 30, "train_proposals": 20, "test_proposals": 10}
NETS: dict[str, Any] = {
    "retinanet": RetinaNet(BACKBONE, candidates=20, prior=0.3, **SMALL),
    "faster_rcnn": FasterRCNN(BACKBONE, **SMALL, **REGIONS),
    "mask_rcnn": MaskRCNN(BACKBONE, mask_widths=(8,), **SMALL, **REGIONS),
}
LOSSES: dict[str, Any] = {
    "retinanet": RetinaLoss(),
    "faster_rcnn": RCNNLoss(anchor_samples=16, region_samples=8),
    "mask_rcnn": RCNNLoss(anchor_samples=16, region_samples=8),
}
KINDS = pytest.mark.parametrize("kind", ["retinanet", only_in_full("faster_rcnn"), "mask_rcnn"])
ONE_KIND = pytest.mark.parametrize("kind", ["retinanet", *map(only_in_full, ("faster_rcnn", "mask_rcnn"))])
SIZE, COUNT = 64, 3


def batch_of(seed: int, count: int = COUNT) -> dict[str, jax.Array]:
    """Noise with two boxes an image, of which the second is padding in every other image."""
    rng = np.random.default_rng(seed)
    corner, side = rng.uniform(0, 24, (count, 2, 2)), rng.uniform(12, 30, (count, 2, 2))
    present = np.stack([np.ones(count, bool), np.arange(count) % 2 == 0], axis=1)
    boxes = np.concatenate([corner, corner + side], axis=-1) * present[..., None]
    rows = np.arange(SIZE) + 0.5
    masks = [(boxes[..., axis, None] <= rows) & (rows < boxes[..., axis + 2, None]) for axis in (1, 0)]
    return {
        "image": jnp.asarray(rng.normal(size=(count, SIZE, SIZE, 3)), jnp.float32),
        "size": jnp.asarray(np.array([[SIZE, 50]] * count)),
        "boxes": jnp.asarray(boxes, jnp.float32),
        "label": jnp.asarray(rng.integers(0, 3, (count, 2)), jnp.int32),
        "present": jnp.asarray(present),
        "masks": jnp.asarray(masks[0][..., :, None] & masks[1][..., None, :], jnp.uint8),
    }


@pytest.fixture(scope="module")
def variables() -> dict[str, Any]:
    """Variables of each net whose heads are not at their start, where all boxes score alike."""
    made = {}
    for kind, net in NETS.items():
        made[kind] = attnjax.init(net, jax.random.key(0), (1, SIZE, SIZE, 3))
        made[kind]["params"] = jax.tree_util.tree_map_with_path(
            lambda path, leaf: leaf * 20 if "class_logits" in str(path) or "objectness" in str(path) else leaf,
            made[kind]["params"],
        )
    return made


def predict(kind: str, variables: Any, batch: Any) -> Any:
    return NETS[kind].apply(variables, batch["image"], batch["size"], 2 * batch["size"], method="predict")


@KINDS
def test_predictions_are_sorted_lie_in_the_image_and_do_not_depend_on_the_batch(kind: str, variables: Any):
    batch = batch_of(0)
    run = jax.jit(partial(predict, kind, variables[kind]))
    found = run(batch)
    assert found.boxes.shape == (COUNT, 6, 4)
    assert (found.count > 0).all()
    assert (jnp.diff(found.scores, axis=1) <= 0).all()
    assert (found.boxes >= 0).all()
    assert (found.boxes <= jnp.array([50.0, 64.0, 50.0, 64.0])[None, None]).all()
    np.testing.assert_allclose(found.original_boxes, 2 * found.boxes)
    valid = jnp.arange(6)[None] < found.count[:, None]
    assert not found.boxes[~valid].any()
    assert not found.scores[~valid].any()
    assert (found.masks is None) == (kind != "mask_rcnn")
    alone = jax.jit(partial(predict, kind, variables[kind]))(jax.tree.map(lambda leaf: leaf[1:2], batch))
    mapped = jax.jit(jax.vmap(lambda one: predict(kind, variables[kind], jax.tree.map(lambda x: x[None], one))))(batch)
    for of_batch, of_one, of_map in zip(*map(jax.tree.leaves, (found, alone, mapped)), strict=True):
        np.testing.assert_allclose(of_one[0], of_batch[1], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(of_map[:, 0], of_batch, rtol=1e-5, atol=1e-5)


@KINDS
def test_what_lies_in_the_padding_of_images_and_boxes_does_not_matter(kind: str, variables: Any):
    batch, key = batch_of(1), {"dropout": jax.random.key(3)}
    other = batch | {
        "image": batch["image"].at[:, :, 50:].set(7),
        "label": jnp.where(batch["present"], batch["label"], 2),
        "boxes": jnp.where(batch["present"][..., None], batch["boxes"], jnp.array([3.0, 3.0, 40.0, 40.0])),
    }
    of = jax.jit(lambda batch: LOSSES[kind](NETS[kind], variables[kind], batch, train=True, rngs=key)[0])
    assert float(of(batch)) == float(of(other))


@KINDS
def test_images_without_boxes_and_masked_images_leave_loss_and_gradients_finite(kind: str, variables: Any):
    batch = batch_of(2)
    empty = batch | {"present": jnp.zeros((COUNT, 2), bool)}
    hidden = batch | {"mask": jnp.array([True, False, True])}
    kept = {name: leaf[jnp.array([0, 2])] for name, leaf in batch.items()}

    @jax.jit
    def run(params: Any, batch: Any) -> Any:
        def of(params: Any) -> Any:
            loss, aux = LOSSES[kind](NETS[kind], variables[kind] | {"params": params}, batch, train=True)
            return loss, aux.sums

        return jax.value_and_grad(of, has_aux=True)(params)

    for each in (batch, empty, hidden):
        (loss, sums), gradients = run(variables[kind]["params"], each)
        assert np.isfinite(loss)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    assert float(sums["count"]) == 2
    (_, sums), _ = run(variables[kind]["params"], empty)
    assert float(sums["box_loss"]) == 0
    if kind == "retinanet":  # the others draw samples for each place in the batch
        (of_hidden, _), (of_kept, _) = (run(variables[kind]["params"], each)[0] for each in (hidden, kept))
        assert float(of_hidden) == pytest.approx(float(of_kept), rel=1e-6)


@KINDS
def test_boxes_without_area_are_left_out_and_labels_that_are_no_class_make_the_loss_nan(kind: str, variables: Any):
    batch, key = batch_of(5), {"dropout": jax.random.key(3)}
    flat = batch["boxes"].at[0, 1].set(jnp.array([9.0, 9.0, 9.0, 30.0]))
    without = batch["present"].at[0, 1].set(False)
    of = jax.jit(lambda batch: LOSSES[kind](NETS[kind], variables[kind], batch, train=True, rngs=key)[0])
    assert float(of(batch | {"boxes": flat})) == float(of(batch | {"present": without}))
    for label in (-1, 3):
        assert np.isnan(of(batch | {"label": batch["label"].at[0, 0].set(label)}))
    assert np.isfinite(of(batch | {"label": batch["label"].at[1, 1].set(3)}))  # padding


def test_anchors_in_the_padding_are_ignored_or_negative():
    start = attnjax.init(NETS["retinanet"], jax.random.key(0), (1, SIZE, SIZE, 3))
    batch = batch_of(6) | {"size": jnp.full((COUNT, 2), 32), "boxes": batch_of(6)["boxes"] / 2}
    ignored, negative = (
        RetinaLoss(padding_anchors=kind)(NETS["retinanet"], start, batch, train=True)[1].sums
        for kind in ("ignored", "negative")
    )
    assert float(ignored["box_loss"]) == float(negative["box_loss"])
    assert float(ignored["class_loss"]) < 0.6 * float(negative["class_loss"])


def test_a_background_class_in_front_and_at_the_end_mean_the_same():
    rng = np.random.default_rng(0)
    logits, deltas = rng.normal(size=(2, 9, 4)).astype(np.float32), rng.normal(size=(2, 9, 4, 4)).astype(np.float32)
    corner = rng.uniform(0, 30, (2, 9, 2))
    regions = jnp.asarray(np.concatenate([corner, corner + 20], axis=-1), jnp.float32)
    options = {"score_threshold": 0.1, "detections": 12}
    common = (regions, jnp.ones((2, 9), bool), jnp.full((2, 2), 64))
    first = select_from_regions(logits, deltas, *common, background_first=True, **options)
    last = select_from_regions(np.roll(logits, -1, -1), deltas[:, :, 1:], *common, **options)
    for a, b in zip(first, last, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    batch = {
        "image": jnp.zeros((2, 64, 64, 3)),
        "boxes": regions[:, :2] + 2,
        "label": jnp.array([[0, 2], [1, 1]]),
        "present": jnp.ones((2, 2), bool),
    }
    chosen = {"boxes": regions, "sampled": jnp.ones((2, 9), bool), "matches": jnp.arange(18).reshape(2, 9) % 4 - 1}
    chosen["matches"] = jnp.minimum(chosen["matches"], 1)
    nets = (SimpleNamespace(background_first=x, box_weights=(10.0, 10.0, 5.0, 5.0)) for x in (True, False))
    heads = (
        {"class_logits": logits, "box_deltas": deltas},
        {
            "class_logits": np.roll(logits, -1, -1),
            "box_deltas": deltas[:, :, 1:],
        },
    )
    terms = [
        RCNNLoss().region_terms(net, jax.tree.map(jnp.asarray, head), chosen, batch)
        for net, head in zip(nets, heads, strict=True)
    ]
    first, last = ({name: float(value) for name, value in of_head.items()} for of_head in terms)
    assert first == pytest.approx(last, rel=1e-6)


@ONE_KIND
def test_evaluation_gives_the_loss_and_what_predict_gives(kind: str, variables: Any):
    batch = batch_of(3)
    batch |= {"original_size": 2 * batch["size"]}
    loss, aux = jax.jit(lambda batch: LOSSES[kind](NETS[kind], variables[kind], batch, train=False))(batch)
    terms = {name: value / COUNT for name, value in aux.sums.items() if name not in ("loss", "count")}
    assert float(loss) == pytest.approx(float(sum(terms.values())), rel=1e-6)
    assert aux.updates == {}
    for found, expected in zip(
        *map(jax.tree.leaves, (aux.outputs, predict(kind, variables[kind], batch))), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@ONE_KIND
def test_steps_reduce_the_loss_and_leave_what_is_frozen(kind: str):
    net, batch = NETS[kind].clone(frozen_stages=2, dtype=jnp.bfloat16), batch_of(4)
    optimizer = sgd(0.01, 0.9, weight_decay=0.01, frozen=net.frozen)
    start = attnjax.init(NETS[kind], jax.random.key(0), (1, SIZE, SIZE, 3))
    step = make_train_step(net, optimizer, LOSSES[kind])
    state = TrainState.create(start, optimizer)
    sums, update, losses = step.init(state, batch, jax.random.key(0)), jax.jit(step), []
    for _ in range(12):
        state, added = update(state, sums, batch, jax.random.key(0))
        losses.append(float(added["loss"]) / COUNT)
    assert np.mean(losses[-3:]) < losses[0]
    frozen = net.frozen(state.variables["params"])
    for before, after, is_frozen in zip(
        *map(jax.tree.leaves, (start["params"], state.variables["params"], frozen)), strict=True
    ):
        assert (before == after).all() == is_frozen
        assert after.dtype == jnp.float32
    names = {path[1].key for path, leaf in jax.tree_util.tree_leaves_with_path(frozen) if leaf}
    assert names == {"conv1", "bn1", "stage1_block0", "stage2_block0"}
    for before, after in zip(*(jax.tree.leaves(each["batch_stats"]) for each in (start, state.variables)), strict=True):
        assert (before == after).all()


def test_detectors_are_named_by_kind_and_backbone():
    net = create_detector("mask_rcnn_cbam_resnet50", num_classes=5, backbone={"attention": {"kernel_size": 3}})
    assert (type(net), net.num_classes) == (MaskRCNN, 5)
    assert net.backbone.keywords["attention"] == Partial(CBAM, reduction=16, kernel_size=3)
    assert net == create_detector("mask_rcnn_cbam_resnet50", num_classes=5, backbone={"attention": {"kernel_size": 3}})
    with pytest.raises(
        ValueError, match="unknown detector 'faster_rcnn_cbam_resnet5': did you mean faster_rcnn_cbam_resnet50"
    ):
        create_detector("faster_rcnn_cbam_resnet5")
    with pytest.raises(ValueError, match="unknown detector 'retinanet_resnet20_cifar'"):
        create_detector("retinanet_resnet20_cifar")
    with pytest.raises(ValueError, match=r"unknown argument 'num_clases' .*: did you mean num_classes"):
        create_detector("retinanet_resnet18", num_clases=3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_classes": 0}, "num_classes=0"),
        ({"freeze_batch_norm": False}, "frozen_stages=1 needs freeze_batch_norm=True"),
        ({"frozen_stages": 5}, "frozen_stages=5"),
        ({"anchor_strides": "exact"}, "anchor_strides='exact' is not one of"),
        ({"level_epsilon": "no"}, "level_epsilon='no' is not one of"),
        ({"backbone": Partial(BACKBONE, num_classes=10)}, "backbone has num_classes=10"),
    ],
)
def test_arguments_that_make_no_net_are_refused(changes: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        NETS["faster_rcnn"].clone(**changes)


def test_losses_refuse_unknown_settings():
    with pytest.raises(ValueError, match="denominator='anchor' is not one of"):
        RetinaLoss(denominator="anchor")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="anchor_low_quality='all' is not one of"):
        dataclasses.replace(RCNNLoss(), anchor_low_quality="all")  # type: ignore[arg-type]
