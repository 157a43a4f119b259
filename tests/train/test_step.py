"""One step of training and of evaluation, on a net small enough to follow by hand."""

from __future__ import annotations

from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from attnjax.attention import ChannelSpatialAttention
from attnjax.losses import cross_entropy, ggam_loss
from attnjax.models import BasicBlock, GGAMNet, ResNet
from tests.train.support import Arrays, reader_of_split, replace, small
from train.config import Config, DataConfig, ModelConfig
from train.evaluate import Evaluation, Evaluator
from train.layout import Layout
from train.metrics import GuidedMetrics, Metrics
from train.mix import mix
from train.optimizer import make_optimizer, make_schedule
from train.runs.record import Run
from train.state import TrainState, create_state
from train.step import eval_step, normalize, train_step

CLASSES = 3
CONFIG: Config = replace(
    small(),
    {"data.batch_size": 8, "optimizer.weight_decay": 0.01, "schedule.warmup": 0.0, "total_steps": 4},
)


class Net(nn.Module):
    """A convolution, a batch norm and a classifier."""

    num_classes: int = CLASSES

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = nn.Conv(4, (3, 3), name="conv")(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9, name="bn")(x))
        return nn.Dense(CLASSES, name="fc")(x.mean((1, 2)))


class Images(Arrays):
    """Images and labels at random, each always the same."""

    def __init__(self, count: int) -> None:
        rng = np.random.default_rng(0)
        super().__init__(rng.integers(0, 256, (count, 8, 8, 1), np.uint8), rng.integers(0, CLASSES, count))


def batch(start: int = 0, size: int = 8) -> dict[str, np.ndarray]:
    images = Images(64)
    part = slice(start, start + size)
    return {
        "image": images.images[part],
        "label": images.labels[part].astype(np.int32),
        "mask": np.ones(size, bool),
    }


def steps(config: Config, count: int) -> tuple[TrainState, Metrics]:
    """The state and the metrics after some steps from the state of seed 0."""
    model = Net()
    optimizer = make_optimizer(config.optimizer, make_schedule(config.schedule, config.optimizer.learning_rate, 4))
    state = create_state(model, optimizer, (8, 8, 1), config.seed, config.ema_decay is not None)
    step, metrics = jax.jit(partial(train_step, model, optimizer, config)), Metrics.zero()
    for number in range(count):
        state, metrics = step(state, metrics, batch(8 * number))
    return state, metrics


def by_hand(config: Config, count: int) -> tuple[list[Any], list[float], list[float]]:
    """SGD in PyTorch's form, written out: variables after every step, losses and right answers."""
    variables: Any = steps(config, 0)[0].variables
    buffers = jax.tree.map(jnp.zeros_like, variables["params"])
    mean, std = np.float32(config.data.mean[0]), np.float32(config.data.std[0])

    def loss_of(params: Any, statistics: Any, part: dict[str, np.ndarray]) -> Any:
        images = (part["image"].astype(np.float32) / 255 - mean) / std
        net = {"params": params, "batch_stats": statistics}
        logits, updates = Net().apply(net, images, train=True, mutable=["batch_stats"])
        log = logits - jnp.log(jnp.exp(logits).sum(-1, keepdims=True))
        targets = np.eye(CLASSES, dtype=np.float32)[part["label"]]
        targets = targets * (1 - config.label_smoothing) + config.label_smoothing / CLASSES
        return -(targets * log).sum(-1).mean(), (updates["batch_stats"], logits)

    settings = config.optimizer
    history, losses, right = [variables], [], []
    for number in range(count):
        part, params = batch(8 * number), variables["params"]
        (loss, (statistics, logits)), grads = jax.value_and_grad(loss_of, has_aux=True)(
            params, variables["batch_stats"], part
        )
        rate = settings.learning_rate * (1 + np.cos(np.pi * number / 4)) / 2
        grads = jax.tree.map(lambda g, p: g + settings.weight_decay * p, grads, params)
        buffers = jax.tree.map(lambda b, g: settings.momentum * b + g, buffers, grads)
        change = buffers
        if settings.nesterov:
            change = jax.tree.map(lambda g, b: g + settings.momentum * b, grads, buffers)
        new = jax.tree.map(lambda p, c, rate=rate: p - np.float32(rate) * c, params, change)
        variables = {"params": new, "batch_stats": statistics}
        history.append(variables)
        losses.append(float(loss))
        right.append(float((np.asarray(logits).argmax(-1) == part["label"]).sum()))
    return history, losses, right


def assert_close(one: Any, two: Any, **tolerances: float) -> None:
    assert jax.tree.structure(one) == jax.tree.structure(two)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_allclose(a, b, **{"rtol": 1e-5, "atol": 1e-6, **tolerances})


@pytest.mark.parametrize("changes", [{}, {"optimizer.nesterov": False, "label_smoothing": 0.1}])
def test_training_is_sgd_written_out_by_hand(changes: dict[str, Any]):
    config = replace(CONFIG, changes)
    state, metrics = steps(config, 3)
    history, losses, right = by_hand(config, 3)
    assert_close(state.variables, history[-1])
    assert int(state.step) == 3
    assert float(metrics.loss) == pytest.approx(8 * sum(losses), rel=1e-5)
    assert (int(metrics.correct), int(metrics.count), int(metrics.bad_step)) == (sum(right), 24, -1)


def test_the_average_is_that_of_parameters_and_batch_statistics():
    config = replace(CONFIG, {"ema_decay": 0.75})
    state, _ = steps(config, 3)
    history, *_ = by_hand(config, 3)
    average = history[0]
    for variables in history[1:]:
        average = jax.tree.map(lambda old, new: 0.75 * old + 0.25 * new, average, variables)
    assert_close(state.ema, average)
    assert_close(state.variables, history[-1])
    assert state.evaluated is state.ema
    assert set(state.evaluated) == {"params", "batch_stats"}


def test_without_an_average_the_variables_themselves_are_evaluated():
    state, _ = steps(CONFIG, 1)
    assert state.ema is None
    assert state.evaluated is state.variables


@pytest.mark.parametrize(("mean", "std"), [((0.5,), (0.25,)), ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))])
def test_images_are_normalised(mean: tuple[float, ...], std: tuple[float, ...]):
    images = np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3) * 10
    normalised = normalize(DataConfig(mean=mean, std=std), jnp.asarray(images))
    assert normalised.dtype == jnp.float32
    np.testing.assert_allclose(normalised, (images / 255 - np.asarray(mean)) / np.asarray(std), rtol=1e-5, atol=1e-6)


def test_evaluation_counts_what_is_not_masked():
    model, variables = Net(), steps(CONFIG, 2)[0].variables
    data = batch(0, 8) | {"mask": np.asarray([True] * 5 + [False] * 3)}
    metrics, confusion = eval_step(
        model, CONFIG, variables, Metrics.zero(), jnp.zeros((CLASSES, CLASSES), jnp.int32), data
    )
    logits: Any = model.apply(variables, normalize(CONFIG.data, data["image"]), train=False)
    answers, labels = np.asarray(logits.argmax(-1))[:5], data["label"][:5]
    expected = np.zeros((CLASSES, CLASSES), int)
    for label, answer in zip(labels, answers, strict=True):
        expected[label, answer] += 1
    np.testing.assert_array_equal(confusion, expected)
    assert (int(metrics.correct), int(metrics.count)) == ((answers == labels).sum(), 5)
    assert float(metrics.loss) == pytest.approx(float(cross_entropy(logits, data["label"])[:5].sum()), rel=1e-6)


def test_evaluation_does_not_smooth():
    variables = steps(CONFIG, 1)[0].variables
    sums = [
        eval_step(Net(), config, variables, Metrics.zero(), jnp.zeros((CLASSES, CLASSES), jnp.int32), batch())[0].loss
        for config in (CONFIG, replace(CONFIG, {"label_smoothing": 0.3}))
    ]
    assert float(sums[0]) == float(sums[1])


def evaluate_on(devices: int, variables: Any, count: int) -> Evaluation:
    layout = Layout.of(CONFIG, jax.devices()[:devices])
    reader = reader_of_split(Images(count), CONFIG.data)
    return Evaluator(Net(), CONFIG, reader, layout, CLASSES)(layout.put(variables))


@pytest.mark.parametrize("count", [21, 16, 3])
def test_evaluation_on_8_devices_is_that_on_one(count: int):
    variables = steps(CONFIG, 3)[0].variables
    one, eight = (evaluate_on(devices, variables, count) for devices in (1, 8))
    assert (one.count, eight.count, int(one.confusion.sum())) == (count, count, count)
    assert one.accuracy == eight.accuracy == np.trace(one.confusion) / count
    np.testing.assert_array_equal(one.confusion, eight.confusion)
    assert eight.loss == pytest.approx(one.loss, rel=1e-6)
    labels = Images(count).labels
    np.testing.assert_array_equal(one.confusion.sum(axis=1), np.bincount(labels, minlength=CLASSES))
    logits: Any = Net().apply(variables, normalize(CONFIG.data, jnp.asarray(Images(count).images)), train=False)
    assert one.loss == pytest.approx(float(cross_entropy(logits, jnp.asarray(labels, jnp.int32)).mean()), rel=1e-5)


@pytest.mark.parametrize("bad", ["loss", "gradient"])
def test_the_first_step_that_is_not_finite_is_kept(bad: str):
    model, optimizer = Net(), make_optimizer(CONFIG.optimizer, lambda step: 0.1)
    state = create_state(model, optimizer, (8, 8, 1), 0, False)
    params = state.variables["params"]
    if bad == "loss":
        params = params | {"fc": jax.tree.map(lambda leaf: leaf * jnp.nan, params["fc"])}
    else:  # the loss is finite, but squares of the gradient are not
        params = params | {"fc": {**params["fc"], "kernel": params["fc"]["kernel"] * 1e25}}
    state = state.replace(step=jnp.asarray(7, jnp.int32), variables=state.variables | {"params": params})
    state, metrics = train_step(model, optimizer, CONFIG, state, Metrics.zero(), batch())
    assert int(metrics.bad_step) == 7
    _, metrics = train_step(model, optimizer, CONFIG, state, metrics, batch())
    assert int(metrics.bad_step) == 7


def test_a_seed_given_as_an_array_replaces_that_of_the_settings():
    config = replace(CONFIG, {"data.mixup": 0.4, "data.cutmix": 1.0, "seed": 3})
    model, optimizer = Net(), make_optimizer(CONFIG.optimizer, lambda step: 0.1)
    step, seeds = partial(train_step, model, optimizer), (0, 3, 2**31 + 5, 2**32 - 1)
    given = jax.jit(lambda seed, *arguments: step(config, *arguments, seed=seed))
    losses = set()
    for seed in seeds:
        state = create_state(model, optimizer, (8, 8, 1), 0, False)
        expected = jax.jit(partial(step, replace(config, {"seed": seed})))(state, Metrics.zero(), batch())
        chex.assert_trees_all_equal(given(np.uint32(seed), state, Metrics.zero(), batch()), expected)
        losses.add(float(expected[1].loss))
    assert len(losses) == len(seeds)


def test_bfloat16_computes_in_bfloat16_and_keeps_float32_parameters():
    configs = [small({"model.dtype": dtype}) for dtype in ("bfloat16", "float32")]
    runs = [Run(config, tuple("0123456789"), (8, 8, 1), 1437) for config in configs]
    data = {"image": np.zeros((8, 8, 8, 1), np.uint8), "label": np.zeros(8, np.int32)}
    texts = []
    for run in runs:
        state = run.abstract_state()
        step = partial(train_step, run.model(), run.optimizer(), run.config)
        new, metrics = jax.eval_shape(step, state, Metrics.zero(), data)
        for tree in (new.variables, metrics.loss):
            assert {leaf.dtype.name for leaf in jax.tree.leaves(tree)} == {"float32"}
        assert jax.tree.map(lambda leaf: leaf.dtype, new) == jax.tree.map(lambda leaf: leaf.dtype, state)
        texts.append(str(jax.make_jaxpr(step)(state, Metrics.zero(), data)))
    convolutions = [[line for line in text.splitlines() if "= conv_general_dilated[" in line] for text in texts]
    assert all(":bf16[" in line for line in convolutions[0])
    assert all(":f32[" in line for line in convolutions[1])
    assert len(convolutions[0]) == len(convolutions[1]) > 19


def test_dropout_draws_anew_each_step_and_the_same_for_a_seed() -> None:
    class Dropped(nn.Module):
        """A classifier of pixels, many of which are dropped."""

        num_classes: int = CLASSES

        @nn.compact
        def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
            x = nn.Dropout(0.5, deterministic=not train)(x.reshape(len(x), -1))
            return nn.Dense(CLASSES)(x)

    net = Dropped()
    optimizer = make_optimizer(CONFIG.optimizer, make_schedule(CONFIG.schedule, 0.1, 4))
    variables = net.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), train=False)

    def loss(config: Config, step: int) -> float:
        state = TrainState(jnp.asarray(step), dict(variables), optimizer.init(variables["params"]), None)
        return float(train_step(net, optimizer, config, state, Metrics.zero(), batch())[1].loss)

    assert loss(CONFIG, 0) == loss(CONFIG, 0)
    assert len({loss(CONFIG, 0), loss(CONFIG, 1), loss(replace(CONFIG, {"seed": 1}), 0)}) == 3


GUIDED: Config = replace(
    CONFIG, {"model": ModelConfig("ggam_resnet20_cifar"), "ggam.weight": 2.0, "data.mixup": 0.5, "label_smoothing": 0.1}
)


GUIDED_NET = GGAMNet(
    partial(ResNet, (1,), BasicBlock, widths=(8,), stem="cifar", stem_width=8),
    partial(ChannelSpatialAttention, reduction=2),
    CLASSES,
    hidden=4,
)


@pytest.mark.parametrize(
    "knobs",
    [
        {},
        {"beta_norm": "softmax", "kl": "forward", "target": "prediction", "wrt": "D", "reduction": "sum"},
        {"stop_gradient": False, "epsilon": 0.1},
    ],
)
def test_a_guided_step_is_one_on_ggams_loss(knobs: dict[str, Any]):
    config = replace(GUIDED, {f"ggam.{name}": value for name, value in knobs.items()})
    model = GUIDED_NET
    optimizer = make_optimizer(config.optimizer, lambda step: 0.1)
    state = create_state(model, optimizer, (8, 8, 1), 0, False)
    after, metrics = jax.jit(partial(train_step, model, optimizer, config))(state, Metrics.zero(), batch())

    mixing, _ = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), 0))
    shares = jnp.asarray(np.eye(CLASSES, dtype=np.float32)[batch()["label"]])
    images, shares = mix(config.data, mixing, normalize(config.data, jnp.asarray(batch()["image"])), shares)

    def loss(params: Any) -> Any:
        variables = state.variables | {"params": params}
        return ggam_loss(model, variables, images, shares, train=True, weight=2.0, smoothing=0.1, **knobs)

    (value, terms), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(state.variables["params"])
    steps, _ = optimizer.update(grads, state.opt_state, state.variables["params"])
    assert_close(after.variables, {**terms.updates, "params": optax.apply_updates(state.variables["params"], steps)})
    figures = metrics.figures(guided=True)
    assert figures["loss"] == pytest.approx(float(value), rel=1e-5)
    assert figures["kl"] == pytest.approx(float(terms.guidance.mean()), rel=1e-4)
    assert figures["kl"] > 1e-6


@pytest.mark.parametrize("weight", [0.0, 2.0])
def test_an_evaluation_tells_how_near_channel_weights_are_to_those_of_grad_cam(weight: float):
    config = replace(GUIDED, {"ggam.weight": weight, "ggam.beta_norm": "softmax", "ggam.wrt": "D"})
    variables = create_state(
        GUIDED_NET, make_optimizer(config.optimizer, lambda step: 0.1), (8, 8, 1), 0, False
    ).variables
    given = batch() | {"mask": np.arange(len(batch()["label"])) % 3 > 0}
    sums, confusion = GuidedMetrics.zero(), jnp.zeros((CLASSES, CLASSES), jnp.int32)
    metrics, confusion = jax.jit(partial(eval_step, GUIDED_NET, config))(variables, sums, confusion, given)
    images = normalize(config.data, jnp.asarray(given["image"][given["mask"]]))
    labels = jnp.asarray(given["label"][given["mask"]])
    _, terms = ggam_loss(GUIDED_NET, variables, images, labels, train=False, beta_norm="softmax", wrt="D")
    pairs = zip(np.asarray(terms.channel_weights), np.asarray(terms.cam_weights), strict=True)
    assert float(metrics.kl) == pytest.approx(float(terms.guidance.sum()), rel=1e-3)
    assert float(metrics.correlation) == pytest.approx(sum(np.corrcoef(s, w)[0, 1] for s, w in pairs), abs=1e-2)
    assert int(metrics.correct) == int((terms.logits.argmax(-1) == labels).sum()) == int(jnp.trace(confusion))


def test_without_guidance_there_is_no_figure_of_it():
    assert list(steps(CONFIG, 1)[1].figures()) == ["loss", "accuracy"]


def test_sums_of_metrics_come_back_and_what_they_lack_is_zero():
    sums = steps(CONFIG, 1)[1].sums()
    assert Metrics.of(sums).sums() == sums
    del sums["kl"]
    assert Metrics.of(sums).sums() == sums | {"kl": 0.0}
