"""One step of training and of evaluation, on nets small enough to follow by hand."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import attnjax
from attnjax.losses import GGAM, CrossEntropy, cross_entropy, ggam_loss
from attnjax.training import (
    Aux,
    Mixup,
    Normalize,
    Sums,
    TrainState,
    TrainStep,
    cosine_schedule,
    make_eval_step,
    make_train_step,
    sgd,
)
from tests.training.nets import CLASSES, GUIDED_NET, Net, batch_of

MEAN, STD = 0.3, 0.4
PREPROCESS = Normalize((MEAN,), (STD,))
KEY = jax.random.key(5)


def state_of(step: TrainStep) -> TrainState:
    variables = step.model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), train=False)
    return TrainState.create(variables, step.optimizer, ema=step.ema is not None)


def steps(step: TrainStep, count: int, key: jax.Array = KEY) -> tuple[TrainState, Sums]:
    """State and sums after some steps from the same beginning."""
    state, compiled = state_of(step), jax.jit(step)
    sums = step.init(state, batch_of(0), key)
    for number in range(count):
        state, sums = compiled(state, sums, batch_of(number), key)
    return state, sums


def plain_step(nesterov: bool = True, smoothing: float = 0.0, **options: Any) -> TrainStep:
    optimizer = sgd(cosine_schedule(0.1, 4), momentum=0.9, nesterov=nesterov, weight_decay=0.01)
    return make_train_step(Net(), optimizer, CrossEntropy(smoothing), preprocess=PREPROCESS, **options)


def by_hand(nesterov: bool, smoothing: float, count: int) -> tuple[list[Any], list[float], int]:
    """SGD in PyTorch's form, written out: variables after every step, losses and right answers."""
    variables: Any = state_of(plain_step()).variables
    buffers = jax.tree.map(jnp.zeros_like, variables["params"])

    def loss_of(params: Any, statistics: Any, batch: dict[str, jax.Array]) -> Any:
        images = (np.asarray(batch["image"], np.float32) / 255 - np.float32(MEAN)) / np.float32(STD)
        net = {"params": params, "batch_stats": statistics}
        logits, updates = Net().apply(net, images, train=True, mutable=["batch_stats"])
        log = logits - jnp.log(jnp.exp(logits).sum(-1, keepdims=True))
        targets = np.eye(CLASSES, dtype=np.float32)[batch["label"]] * (1 - smoothing) + smoothing / CLASSES
        return -(targets * log).sum(-1).mean(), (updates["batch_stats"], logits)

    gradient = jax.value_and_grad(loss_of, has_aux=True)
    history, losses, right = [variables], [], 0
    for number in range(count):
        batch, params = batch_of(number), variables["params"]
        (loss, (statistics, logits)), grads = gradient(params, variables["batch_stats"], batch)
        rate = 0.1 * (1 + np.cos(np.pi * number / 4)) / 2
        grads = jax.tree.map(lambda g, p: g + 0.01 * p, grads, params)
        buffers = jax.tree.map(lambda b, g: 0.9 * b + g, buffers, grads)
        change = jax.tree.map(lambda g, b: g + 0.9 * b, grads, buffers) if nesterov else buffers
        new = jax.tree.map(lambda p, c, rate=rate: p - np.float32(rate) * c, params, change)
        variables = {"params": new, "batch_stats": statistics}
        history.append(variables)
        losses.append(float(loss))
        right += int((np.asarray(logits).argmax(-1) == batch["label"]).sum())
    return history, losses, right


def assert_close(one: Any, two: Any) -> None:
    chex.assert_trees_all_close(one, two, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("nesterov", "smoothing"), [(True, 0.0), (False, 0.1)])
def test_training_is_sgd_written_out_by_hand(nesterov: bool, smoothing: float):
    state, sums = steps(plain_step(nesterov, smoothing), 3)
    history, losses, right = by_hand(nesterov, smoothing, 3)
    assert_close(state.variables, history[-1])
    assert int(state.step) == 3
    assert float(sums["loss"]) == pytest.approx(8 * sum(losses), rel=1e-5)
    assert (int(sums["correct"]), int(sums["count"]), int(sums.first_nonfinite)) == (right, 24, -1)


def test_the_average_is_that_of_parameters_and_batch_statistics():
    state, _ = steps(plain_step(ema=0.75), 3)
    history, *_ = by_hand(True, 0.0, 3)
    average = history[0]
    for variables in history[1:]:
        average = jax.tree.map(lambda old, new: 0.75 * old + 0.25 * new, average, variables)
    assert_close(state.ema, average)
    assert_close(state.variables, history[-1])
    assert state.eval_variables is state.ema


def test_without_an_average_the_variables_themselves_are_evaluated():
    state, _ = steps(plain_step(), 1)
    assert state.ema is None
    assert state.eval_variables is state.variables


@pytest.mark.parametrize(("mean", "std"), [((0.5,), (0.25,)), ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))])
def test_images_are_normalised(mean: tuple[float, ...], std: tuple[float, ...]):
    images = np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3) * 10
    normalised = Normalize(mean, std)(jnp.asarray(images))
    assert normalised.dtype == jnp.float32
    np.testing.assert_allclose(normalised, (images / 255 - np.asarray(mean)) / np.asarray(std), rtol=1e-5, atol=1e-6)


def test_images_that_are_normalised_already_are_refused():
    with pytest.raises(ValueError, match="images are float32, but must be uint8"):
        Normalize((0.5,), (0.25,))(jnp.zeros((1, 8, 8, 1)))


def test_zero_sums_have_the_names_and_types_of_the_loss_and_cost_nothing():
    @dataclasses.dataclass(frozen=True)
    class Boxes:
        """Two losses and a vector, none of which is a classifier's."""

        def __call__(self, model: Any, variables: Any, batch: Any, *, train: bool, rngs: Any = None) -> Any:
            logits, updates = model.apply(variables, batch["image"], train=train, mutable=["batch_stats"])
            sums = {"box_loss": logits.sum(), "matched": jnp.int32(2), "by_class": jnp.ones(CLASSES)}
            return jnp.square(logits).mean(), Aux(logits, updates, sums)

    for accumulate in (1, 2):
        step = make_train_step(Net(), optax.sgd(0.1), Boxes(), preprocess=PREPROCESS, accumulate=accumulate)
        state = jax.eval_shape(lambda step=step: state_of(step))
        zero = step.init(state, jax.eval_shape(lambda: batch_of(0)), jax.eval_shape(lambda: KEY))
        assert {name: (total.shape, total.dtype.name) for name, total in zero.totals.items()} == {
            "box_loss": ((), "float32"),
            "matched": ((), "int32"),
            "by_class": ((CLASSES,), "float32"),
        }
        assert not any(np.any(total) for total in zero.totals.values())
        assert int(zero.first_nonfinite) == -1
        _, sums = steps(step, 2)
        assert int(sums["matched"]) == 4 * accumulate
        assert sums["by_class"].tolist() == [2 * accumulate] * CLASSES


@pytest.mark.parametrize("bad", ["loss", "gradient"])
def test_the_first_step_that_is_not_finite_is_kept(bad: str):
    step = plain_step()
    state = state_of(step)
    params = state.variables["params"]
    if bad == "loss":
        params = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), params)
    else:  # the loss is finite, but squares of the gradient are not
        params = params | {"fc": {**params["fc"], "kernel": params["fc"]["kernel"] * 1e25}}
    state = state.replace(step=jnp.asarray(7, jnp.int32), variables=state.variables | {"params": params})
    sums = step.init(state, batch_of(0), KEY)
    for _ in range(2):
        state, sums = step(state, sums, batch_of(0), KEY)
        assert int(sums.first_nonfinite) == 7


def test_a_step_with_another_key_mixes_and_drops_otherwise_and_with_the_same_alike():
    step = make_train_step(
        Net(dropout=0.5), optax.sgd(0.1), CrossEntropy(), preprocess=PREPROCESS, mix=Mixup(CLASSES, mixup=0.4)
    )
    losses = [float(steps(step, 1, jax.random.key(seed))[1]["loss"]) for seed in (0, 0, 1, 2**32 - 1)]
    assert losses[0] == losses[1]
    assert len(set(losses)) == 3
    _, sums = steps(step, 1)
    later = state_of(step).replace(step=jnp.asarray(1, jnp.int32))
    _, other = jax.jit(step)(later, step.init(later, batch_of(0), KEY), batch_of(0), KEY)
    assert float(other["loss"]) != float(sums["loss"])


def test_equal_steps_of_equal_parts_trace_once():
    model = attnjax.create_model("resnet20_cifar", num_classes=CLASSES, stage_sizes=(1,), widths=(8,), stem_width=8)
    optimizer = optax.sgd(0.1)

    @partial(jax.jit, static_argnums=0)
    @chex.assert_max_traces(1)
    def run(step: TrainStep, state: Any, sums: Any, batch: Any) -> Any:
        return step(state, sums, batch, KEY)

    for _ in range(2):
        step = make_train_step(model, optimizer, CrossEntropy(0.1), preprocess=Normalize((MEAN,), (STD,)))
        state = TrainState.create(attnjax.init(model, KEY, (1, 8, 8, 1)), optimizer)
        run(step, state, step.init(state, batch_of(0), KEY), batch_of(0))


def test_bfloat16_computes_in_bfloat16_and_keeps_float32_parameters():
    texts = []
    for dtype in (jnp.bfloat16, jnp.float32):
        model = attnjax.create_model("cbam_resnet20_cifar", num_classes=10, stage_sizes=(1, 1, 1), dtype=dtype)
        step = make_train_step(model, sgd(0.1), CrossEntropy(), preprocess=PREPROCESS)
        state = jax.eval_shape(lambda step=step: state_of(step))
        sums = step.init(state, batch_of(0), KEY)
        after, totals = jax.eval_shape(step, state, sums, batch_of(0), KEY)
        assert {leaf.dtype.name for leaf in jax.tree.leaves((after.variables, totals["loss"]))} == {"float32"}
        chex.assert_trees_all_equal_dtypes(after, state)
        texts.append(str(jax.make_jaxpr(step)(state, sums, batch_of(0), KEY)))
    convolutions = [[line for line in text.splitlines() if "= conv_general_dilated[" in line] for text in texts]
    assert all(":bf16[" in line for line in convolutions[0])
    assert all(":f32[" in line for line in convolutions[1])
    assert len(convolutions[0]) == len(convolutions[1]) > 9


@pytest.mark.parametrize(
    ("options", "name"), [({"accumulate": 0}, "accumulate"), ({"ema": 1.0}, "ema"), ({"rematerialize": "blok"}, "blok")]
)
def test_arguments_out_of_range_are_refused(options: dict[str, Any], name: str):
    with pytest.raises(ValueError, match=name):
        make_train_step(Net(), optax.sgd(0.1), CrossEntropy(), **options)


def test_parts_weigh_equally_whatever_their_masks_leave_out():
    step = make_train_step(Net(), optax.sgd(0.1), CrossEntropy(), preprocess=PREPROCESS, accumulate=2)
    state, batch = state_of(step), batch_of(0) | {"mask": jnp.arange(8) != 2}
    after, sums = step(state, step.init(state, batch, KEY), batch, KEY)

    def loss(params: Any) -> Any:
        rest, losses = state.variables["batch_stats"], []
        for part in (slice(0, 8, 2), slice(1, 8, 2)):
            rows = {name: value[part] for name, value in batch.items()}
            rows["image"] = PREPROCESS(rows["image"])
            value, aux = CrossEntropy()(Net(), {"params": params, "batch_stats": rest}, rows, train=True)
            rest = aux.updates["batch_stats"]
            losses.append(value)
        return (losses[0] + losses[1]) / 2

    grads = jax.jit(jax.grad(loss))(state.variables["params"])
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, state.variables["params"], grads)
    assert_close(after.variables["params"], expected)
    assert int(sums["count"]) == 7


def test_what_does_not_go_together_is_refused():
    step, averaging = plain_step(), plain_step(ema=0.5)
    state = state_of(step)
    sums = step.init(state, batch_of(0), KEY)
    with pytest.raises(ValueError, match=r"ema=0\.5, but the state has no average"):
        averaging(state, sums, batch_of(0), KEY)
    with pytest.raises(ValueError, match="sums="):
        step(state, Sums({}, sums.first_nonfinite), batch_of(0), KEY)
    with pytest.raises(ValueError, match="accumulate=3 does not divide the batch of 8"):
        dataclasses.replace(step, accumulate=3)(state, sums, batch_of(0), KEY)


@pytest.mark.parametrize(
    "knobs",
    [
        {},
        {
            "beta_norm": "softmax",
            "kl": "forward",
            "target": "prediction",
            "wrt": "D",
            "reduction": "sum",
            "statistics": "batch",
        },
        {"stop_gradient": False, "epsilon": 0.1},
    ],
)
def test_a_step_with_ggam_is_one_on_its_loss(knobs: dict[str, Any]):
    size = 8 if knobs.get("reduction") == "sum" else None
    loss, mix = GGAM(weight=2.0, smoothing=0.1, batch_size=size, **knobs), Mixup(CLASSES, mixup=0.5)
    step = make_train_step(GUIDED_NET, sgd(0.1), loss, preprocess=PREPROCESS, mix=mix)
    state = state_of(step)
    after, sums = steps(step, 1)

    mixing, _ = jax.random.split(jax.random.fold_in(KEY, 0))
    mixed = mix(mixing, batch_of(0) | {"image": PREPROCESS(batch_of(0)["image"])})

    def loss_of(params: Any) -> Any:
        variables = state.variables | {"params": params}
        options = {"weight": 2.0, "smoothing": 0.1, **knobs}
        return ggam_loss(GUIDED_NET, variables, mixed["image"], mixed["target"], train=True, **options)

    (value, terms), grads = jax.jit(jax.value_and_grad(loss_of, has_aux=True))(state.variables["params"])
    updates, _ = step.optimizer.update(grads, state.opt_state, state.variables["params"])
    assert_close(after.variables, {**terms.updates, "params": optax.apply_updates(state.variables["params"], updates)})
    assert float(sums["loss"]) / 8 == pytest.approx(float(value), rel=1e-5)
    assert float(sums["kl"]) / 8 == pytest.approx(float(terms.guidance.mean()), rel=1e-4)
    assert float(sums["kl"]) > 1e-6


def test_ggams_sum_over_parts_is_that_over_the_whole_batch():
    variables = attnjax.init(GUIDED_NET, KEY, (1, 8, 8, 1))
    loss, values, entropy, guidance = GGAM(weight=2.0, reduction="sum", batch_size=8), [], [], []
    for part in (slice(0, 4), slice(4, 8)):
        batch = {"image": PREPROCESS(batch_of(0)["image"][part]), "label": batch_of(0)["label"][part]}
        values.append(float(loss(GUIDED_NET, variables, batch, train=True)[0]))
        _, terms = ggam_loss(GUIDED_NET, variables, batch["image"], batch["label"], train=True)
        entropy.append(terms.cross_entropy)
        guidance.append(terms.guidance)
    expected = float(jnp.concatenate(entropy).mean() + 2 * jnp.concatenate(guidance).sum())
    assert np.mean(values) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("options", [{"reduction": "sum"}, {"batch_size": 8}])
def test_ggams_sum_and_nothing_else_needs_the_size_of_the_whole_batch(options: dict[str, Any]):
    with pytest.raises(ValueError, match="batch_size"):
        GGAM(**options)


@pytest.mark.parametrize("options", [{"kl": "reverse"}, {"statistics": "moving"}, {"smoothing": 1.0}, {"epsilon": 0.0}])
def test_wrong_options_of_ggam_are_named_at_once(options: dict[str, Any]):
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=f"{name}={value!r}"):
        GGAM(**options)


def masked(count: int) -> dict[str, jax.Array]:
    return batch_of(0) | {"mask": jnp.arange(8) < count}


def test_evaluation_counts_what_is_not_masked_and_does_not_smooth():
    variables = steps(plain_step(), 2)[0].variables
    step = make_eval_step(Net(), CrossEntropy(0.3), preprocess=PREPROCESS)
    zero = step.init(variables, masked(5))
    assert not any(np.any(total) for total in zero.values())
    sums, logits = jax.jit(step)(variables, zero, masked(5))
    expected: Any = Net().apply(variables, PREPROCESS(batch_of(0)["image"]), train=False)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)
    answers, labels = np.asarray(expected.argmax(-1))[:5], np.asarray(batch_of(0)["label"])[:5]
    confusion = np.zeros((CLASSES, CLASSES), int)
    np.add.at(confusion, (labels, answers), 1)
    np.testing.assert_array_equal(sums["confusion"], confusion)
    assert (int(sums["correct"]), int(sums["count"]), int(sums["top5"])) == ((answers == labels).sum(), 5, 5)
    entropy = cross_entropy(expected, batch_of(0)["label"])[:5]
    assert float(sums["loss"]) == pytest.approx(float(entropy.sum()), rel=1e-5)
    again, _ = step(variables, sums, masked(2))
    assert int(again["count"]) == 7


def test_a_mask_leaves_images_out_of_ggams_loss():
    variables, loss = attnjax.init(GUIDED_NET, KEY, (1, 8, 8, 1)), GGAM(weight=2.0, beta_norm="softmax")
    images = PREPROCESS(batch_of(0)["image"])
    batch = batch_of(0) | {"image": images, "mask": jnp.arange(8) < 5}
    value, aux = loss(GUIDED_NET, variables, batch, train=True)
    _, terms = ggam_loss(GUIDED_NET, variables, images, batch["label"], train=True, beta_norm="softmax")
    assert float(value) == pytest.approx(float((terms.cross_entropy + 2 * terms.guidance)[:5].mean()), rel=1e-5)
    assert float(aux.sums["loss"]) == pytest.approx(5 * float(value), rel=1e-5)


@pytest.mark.parametrize("weight", [0.0, 2.0])
def test_an_evaluation_tells_how_near_channel_weights_are_to_those_of_grad_cam(weight: float):
    loss = GGAM(weight=weight, beta_norm="softmax", wrt="D")
    step = make_eval_step(GUIDED_NET, loss, preprocess=PREPROCESS)
    variables = attnjax.init(GUIDED_NET, KEY, (1, 8, 8, 1))
    batch = batch_of(0) | {"mask": jnp.arange(8) % 3 > 0}
    sums, _ = jax.jit(step)(variables, step.init(variables, batch), batch)
    kept = np.flatnonzero(batch["mask"])
    images, labels = PREPROCESS(batch["image"][kept]), batch["label"][kept]
    _, terms = ggam_loss(GUIDED_NET, variables, images, labels, train=False, beta_norm="softmax", wrt="D")
    pairs = zip(np.asarray(terms.channel_weights), np.asarray(terms.cam_weights), strict=True)
    assert float(sums["kl"]) == pytest.approx(float(terms.guidance.sum()), rel=1e-3)
    assert float(sums["correlation"]) == pytest.approx(sum(np.corrcoef(s, w)[0, 1] for s, w in pairs), abs=1e-2)
    assert float(sums["loss"]) == pytest.approx(float(cross_entropy(terms.logits, labels).sum()), rel=1e-5)
    assert int(sums["correct"]) == int((terms.logits.argmax(-1) == labels).sum()) == int(jnp.trace(sums["confusion"]))
