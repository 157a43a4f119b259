"""The losses in their default form, mmdetection's: values by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnjax.detection import RCNNLoss, RetinaLoss

ANCHORS = [[0, 0, 10, 10], [0, 0, 10, 8], [0, 0, 10, 4.5], [20, 20, 30, 30]]
"""Their IoU with the box of the first image: 1, 0.8, 0.45 and 0."""
TARGETS = np.array([[0, 0, 0, 0], [0, 1 / 8, 0, math.log(10 / 8)]])
"""Of the first two anchors."""
BATCH = {
    "image": jnp.zeros((2, 32, 32, 3)),
    "boxes": jnp.array([[[0.0, 0.0, 10.0, 10.0]], [[0.0, 0.0, 0.0, 0.0]]]),
    "label": jnp.array([[1], [0]], jnp.int32),
    "present": jnp.array([[True], [False]]),
}
"""A box of class 1 in the first image, none in the second."""
LOGITS = np.random.default_rng(0).normal(size=(2, 4, 2)).astype(np.float32)
DELTAS = np.random.default_rng(1).normal(size=(2, 4, 4)).astype(np.float32)


def entropy(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    p = 1 / (1 + np.exp(-logits))
    return -np.where(targets, np.log(p), np.log(1 - p))


def test_retinanet_divides_both_terms_by_the_positive_anchors_of_the_batch():
    terms = RetinaLoss().terms(jnp.asarray(LOGITS), jnp.asarray(DELTAS), jnp.array(ANCHORS, jnp.float32), BATCH)
    targets = np.zeros(LOGITS.shape, bool)
    targets[0, :2, 1] = True
    p = 1 / (1 + np.exp(-LOGITS))
    focal = np.where(targets, 0.25 * (1 - p) ** 2, 0.75 * p**2) * entropy(LOGITS, targets)
    focal[0, 2] = 0  # an IoU from 0.4 to 0.5 is ignored
    positive = 2 + 1  # an image without boxes counts as one
    assert float(terms["class_loss"]) == pytest.approx(focal.sum() / positive, rel=1e-5)
    assert float(terms["box_loss"]) == pytest.approx(np.abs(DELTAS[0, :2] - TARGETS).sum() / positive, rel=1e-5)


def test_proposals_divide_both_terms_by_the_sampled_anchors_of_the_batch():
    objectness = LOGITS[..., 0]
    terms = RCNNLoss().anchor_terms(
        jax.random.key(0), jnp.asarray(objectness), jnp.asarray(DELTAS), jnp.array(ANCHORS, jnp.float32), BATCH
    )
    targets = np.zeros(objectness.shape, bool)
    targets[0, :2] = True
    losses = entropy(objectness, targets)
    losses[0, 2] = 0  # an IoU from 0.3 to 0.7 is ignored
    assert float(terms["objectness_loss"]) == pytest.approx(losses.sum() / 7, rel=1e-5)
    assert float(terms["proposal_loss"]) == pytest.approx(np.abs(DELTAS[0, :2] - TARGETS).sum() / 7, rel=1e-5)


def test_regions_divide_both_terms_by_their_number_and_weigh_the_sides_of_boxes():
    net = SimpleNamespace(background_first=False, box_weights=(10.0, 10.0, 5.0, 5.0))
    logits = np.random.default_rng(2).normal(size=(2, 3, 3)).astype(np.float32)
    deltas = np.random.default_rng(3).normal(size=(2, 3, 2, 4)).astype(np.float32)
    regions = {
        "boxes": jnp.broadcast_to(jnp.array([ANCHORS[1], ANCHORS[3], ANCHORS[3]], jnp.float32)[None], (2, 3, 4)),
        "matches": jnp.array([[0, -1, -1], [-1, -1, -1]], jnp.int32),
        "sampled": jnp.array([[True, True, False], [True, True, False]]),
    }
    outputs = {"class_logits": jnp.asarray(logits), "box_deltas": jnp.asarray(deltas)}
    terms = RCNNLoss().region_terms(net, outputs, regions, BATCH)
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    losses = -np.array([logs[0, 0, 1], logs[0, 1, 2], logs[1, 0, 2], logs[1, 1, 2]])  # the background is the last
    assert float(terms["class_loss"]) == pytest.approx(losses.sum() / 4, rel=1e-5)
    weighted = TARGETS[1] * (10, 10, 5, 5)
    assert float(terms["box_loss"]) == pytest.approx(np.abs(deltas[0, 0, 1] - weighted).sum() / 4, rel=1e-5)


@pytest.mark.parametrize(("low_quality", "expected"), [("none", 0), ("asking", 1)])
def test_a_region_goes_to_the_box_that_asks_for_it_where_that_is_wanted(low_quality: str, expected: int):
    boxes = jnp.array([[[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 8.0]]])
    batch = {
        "image": jnp.zeros((1, 32, 32, 3)),
        "boxes": boxes,
        "label": jnp.array([[0, 1]], jnp.int32),
        "present": jnp.ones((1, 2), bool),
    }
    wanted = [
        0.0,
        0.0,
        10.0,
        9.0,
    ]  # its IoU with the boxes is 0.9 and 0.89, but no other region overlaps the second more
    proposals = jnp.array([[wanted, [0.0, 0.0, 10.0, 9.8]]])
    loss = RCNNLoss(region_low_quality=low_quality, region_fraction=1.0)
    regions = loss.regions(jax.random.key(0), proposals, jnp.ones((1, 2), bool), batch)
    place = regions["boxes"][0].tolist().index(wanted)
    assert int(regions["matches"][0, place]) == expected
