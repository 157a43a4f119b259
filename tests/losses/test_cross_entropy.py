"""CrossEntropy as a `Loss`: its mean, its mask, its gradient, its sums and a step."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from attnjax.losses import CrossEntropy
from attnjax.training import TrainState, make_train_step
from tests.training.nets import CLASSES, Net, batch_of

BATCH = batch_of(0) | {"image": batch_of(0)["image"].astype(jnp.float32) / 255}
MASK = jnp.arange(8) < 5


@pytest.fixture(scope="module")
def variables() -> Any:
    return Net().init(jax.random.key(0), BATCH["image"], train=False)


def losses_by_hand(variables: Any, targets: np.ndarray) -> np.ndarray:
    logits = np.asarray(Net().apply(variables, BATCH["image"], train=True, mutable=["batch_stats"])[0], np.float64)
    return -(targets * (logits - np.log(np.exp(logits).sum(-1, keepdims=True)))).sum(-1)


def test_it_is_the_mean_over_the_images_that_the_mask_keeps(variables: Any):
    targets = np.eye(CLASSES)[BATCH["label"]] * 0.9 + 0.1 / CLASSES
    losses = losses_by_hand(variables, targets)
    value, aux = CrossEntropy(0.1)(Net(), variables, BATCH, train=True)
    assert float(value) == pytest.approx(losses.mean(), rel=1e-5)
    value, aux = CrossEntropy(0.1)(Net(), variables, BATCH | {"mask": MASK}, train=True)
    assert float(value) == pytest.approx(losses[:5].mean(), rel=1e-5)
    assert float(aux.sums["loss"]) == pytest.approx(losses[:5].sum(), rel=1e-5)
    assert int(aux.sums["count"]) == 5
    assert set(aux.updates) == {"batch_stats"}


def test_training_takes_the_target_and_evaluation_the_label(variables: Any):
    target = jnp.asarray(np.random.default_rng(0).dirichlet(np.ones(CLASSES), 8), jnp.float32)
    batch = BATCH | {"target": target}
    value, _ = CrossEntropy()(Net(), variables, batch, train=True)
    assert float(value) == pytest.approx(losses_by_hand(variables, np.asarray(target)).mean(), rel=1e-5)
    values = [CrossEntropy(0.2)(Net(), variables, each, train=False) for each in (batch, BATCH)]
    assert float(values[0][0]) == float(values[1][0])
    assert values[0][1].updates == {}


def test_a_step_follows_its_gradient(variables: Any):
    step = make_train_step(Net(), optax.sgd(0.1), CrossEntropy(0.1))
    state = TrainState.create(variables, step.optimizer)
    after, _ = step(state, step.init(state, BATCH, jax.random.key(0)), BATCH, jax.random.key(0))
    logits: Any = Net().apply(variables, BATCH["image"], train=True, mutable=["batch_stats"])[0]
    targets = np.eye(CLASSES)[BATCH["label"]] * 0.9 + 0.1 / CLASSES
    change = after.variables["params"]["fc"]["bias"] - variables["params"]["fc"]["bias"]
    np.testing.assert_allclose(change, -0.1 * (jax.nn.softmax(logits) - targets).mean(0), rtol=1e-4, atol=1e-7)


def test_a_label_that_no_class_has_makes_the_loss_nan_unless_it_is_masked(variables: Any):
    batch = BATCH | {"label": BATCH["label"].at[6].set(CLASSES).at[7].set(-1)}
    assert np.isnan(CrossEntropy()(Net(), variables, batch, train=True)[0])

    def loss(params: Any) -> jax.Array:
        return CrossEntropy()(Net(), variables | {"params": params}, batch | {"mask": MASK}, train=True)[0]

    value, gradient = jax.value_and_grad(loss)(variables["params"])
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"label": jnp.zeros((8, CLASSES))}, "label"),
        ({"label": jnp.zeros((8, CLASSES), jnp.int32), "target": jnp.zeros((8, CLASSES))}, "label"),
        ({"mask": jnp.ones(8)}, "mask"),
        ({"mask": jnp.ones(5, bool)}, "mask"),
    ],
)
def test_labels_and_masks_of_another_kind_are_refused(variables: Any, changes: dict[str, Any], name: str):
    with pytest.raises(ValueError, match=f"^{name} is "):
        CrossEntropy()(Net(), variables, BATCH | changes, train=True)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0])
def test_smoothing_out_of_range_is_refused(smoothing: float):
    with pytest.raises(ValueError, match=f"smoothing={smoothing}"):
        CrossEntropy(smoothing)
