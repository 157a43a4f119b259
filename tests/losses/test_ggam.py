"""Cross-entropy and GGAM's loss: by numbers, each of its arguments, and its gradients by finite differences."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

import attnjax
from attnjax.attention import CBAM, ChannelSpatialAttention
from attnjax.losses import GGAMTerms, cross_entropy, ggam_loss, guidance_loss
from attnjax.models import BasicBlock, GGAMNet, ResNet

LABELS = np.array([1, 0, 0, 1], np.int32)


class Given(nn.Module):
    """A backbone whose map is its input."""

    dtype: Any = None
    param_dtype: Any = jnp.float32

    def features(self, x: jax.Array, *, train: bool, freeze_batch_norm: bool = False) -> OrderedDict[str, jax.Array]:
        del train, freeze_batch_norm
        return OrderedDict(map=x)


NET = GGAMNet(Given, partial(ChannelSpatialAttention, reduction=1), 2, hidden=3)
SMALL = GGAMNet(
    partial(ResNet, (1, 1), BasicBlock, widths=(8, 16), stem="cifar", stem_width=8),
    partial(ChannelSpatialAttention, reduction=4),
    3,
    hidden=5,
)
MAPS = np.random.default_rng(0).uniform(0.1, 2.0, (4, 3, 2, 4)).astype(np.float32)


def variables_of(net: GGAMNet, shape: tuple[int, ...]) -> dict[str, Any]:
    """Variables none of which is 0 or 1."""
    tree, rng = attnjax.init(net, jax.random.key(0), shape), np.random.default_rng(1)
    return jax.tree.map(lambda leaf: leaf + rng.uniform(-0.6, 0.6, leaf.shape).astype(np.float32), tree)


@pytest.fixture(scope="module")
def variables() -> dict[str, Any]:
    return variables_of(NET, MAPS.shape)


@pytest.fixture(scope="module")
def small() -> dict[str, Any]:
    return variables_of(SMALL, (2, 16, 16, 3))


def images(count: int = 4) -> jax.Array:
    return jax.random.normal(jax.random.key(2), (count, 16, 16, 3))


def terms_of(variables: dict[str, Any], labels: Any = LABELS, maps: Any = MAPS, **knobs: Any) -> GGAMTerms:
    return ggam_loss(NET, variables, jnp.asarray(maps), jnp.asarray(labels), train=False, **knobs)[1]


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def softmax(x: np.ndarray) -> np.ndarray:
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


def by_hand(variables: dict[str, Any], maps: np.ndarray) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """S, the logits, and beta of each class with respect to A and D, (b, n, c), image by image in NumPy."""
    tree = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables)
    p, stats = tree["params"], tree["batch_stats"]

    def norm(name: str) -> tuple[np.ndarray, np.ndarray]:
        gain = p[name]["scale"] / np.sqrt(stats[name]["var"] + 1e-5)
        return gain, p[name]["bias"] - stats[name]["mean"] * gain

    (gain1, shift1), (gain2, shift2) = norm("head_bn1"), norm("head_bn2")
    fc1, fc2 = (p["attention"]["mlp"][name] for name in ("fc1", "fc2"))
    weights, logits, betas = [], [], {"A": [], "D": []}
    for a in maps.astype(np.float64):
        hidden = a.mean((0, 1)) @ fc1["kernel"] + fc1["bias"]
        s = softmax(np.maximum(hidden, 0) @ fc2["kernel"] + fc2["bias"])
        gate = sigmoid(a @ s)[..., None]
        d = a * gate
        top = d == d.max((0, 1))
        z = ((d.max((0, 1)) * gain1 + shift1) @ p["head_fc1"]["kernel"] + p["head_fc1"]["bias"]) * gain2 + shift2
        slope = np.where(z > 0, 1, np.exp(z))
        logits.append(np.where(z > 0, z, np.expm1(z)) @ p["fc"]["kernel"] + p["fc"]["bias"])
        pooled = (p["fc"]["kernel"].T * slope * gain2) @ p["head_fc1"]["kernel"].T * gain1  # dy_k / d max of D_c
        weights.append(s)
        betas["D"].append(pooled / a[..., 0].size)
        # D_c = A_c T; T sees A through m = sum of S A, and S through the mean of A, the same at all places.
        for_gate = np.einsum("kc,hwc,hwc->khw", pooled, top, a) * (gate * (1 - gate))[..., 0]  # dy_k / dm
        for_s = np.einsum("khw,hwc->kc", for_gate, a)
        for_mlp = (for_s - for_s @ s[:, None]) * s
        for_mean = (for_mlp @ fc2["kernel"].T * (hidden > 0)) @ fc1["kernel"].T
        total = pooled * np.einsum("hwc,hwo->c", top, gate) + for_gate.sum((1, 2))[:, None] * s + for_mean
        betas["A"].append(total / a[..., 0].size)
    return np.array(weights), np.array(logits), {name: np.array(beta) for name, beta in betas.items()}


def test_cross_entropy_by_numbers() -> None:
    logits = jnp.asarray([[2.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    labels = jnp.asarray([0, 2], jnp.int32)
    log_sum = np.log(np.exp(2) + 3)
    np.testing.assert_allclose(cross_entropy(logits, labels), [log_sum - 2, np.log(4)], rtol=1e-6)
    # targets 0.85, 0.05, 0.05, 0.05
    np.testing.assert_allclose(cross_entropy(logits, labels, 0.2), [log_sum - 0.85 * 2, np.log(4)], rtol=1e-6)
    shares = jnp.asarray([[0.25, 0.75, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5]])
    np.testing.assert_allclose(cross_entropy(logits, shares), [log_sum - 0.25 * 2, np.log(4)], rtol=1e-6)
    low = cross_entropy(logits.astype(jnp.bfloat16), labels, 0.2)
    np.testing.assert_allclose(low, [log_sum - 0.85 * 2, np.log(4)], rtol=1e-6)
    assert low.dtype == jnp.float32


def test_guidance_by_numbers() -> None:
    s, w = jnp.asarray([[0.2, 0.8], [0.5, 0.5]]), jnp.asarray([[0.6, 0.4], [0.5, 0.5]])
    forward = 0.2 * np.log(0.2 / 0.6) + 0.8 * np.log(0.8 / 0.4)
    backward = 0.6 * np.log(0.6 / 0.2) + 0.4 * np.log(0.4 / 0.8)
    np.testing.assert_allclose(guidance_loss(s, w, kl="forward"), [forward, 0], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(guidance_loss(s, w), [(forward + backward) / 2, 0], rtol=1e-5, atol=1e-7)


def test_guidance_by_what_is_no_distribution_is_negative_in_one_direction_only() -> None:
    s, w = jnp.asarray([[0.5, 0.5]]), jnp.asarray([[0.9, 0.8]])
    np.testing.assert_allclose(guidance_loss(s, w, kl="forward"), [0.5 * np.log(0.25 / 0.72)], rtol=1e-5)
    np.testing.assert_allclose(guidance_loss(s, w), [(0.4 * np.log(1.8) + 0.3 * np.log(1.6)) / 2], rtol=1e-5)


@pytest.mark.parametrize("epsilon", [1e-8, 1e-3])
def test_epsilon_is_the_least_that_logarithms_see(epsilon: float) -> None:
    s, w = jnp.asarray([[0.0, 1.0]]), jnp.asarray([[1.0, 0.0]])
    for kl in ("symmetric", "forward"):
        found = guidance_loss(s, w, kl=kl, epsilon=epsilon)
        np.testing.assert_allclose(found, [-np.log(epsilon)], rtol=1e-5)
        for gradient in jax.grad(lambda *at, kl=kl: guidance_loss(*at, kl=kl, epsilon=epsilon).sum(), (0, 1))(s, w):
            assert np.isfinite(gradient).all()


@pytest.mark.parametrize(("wrt", "target"), [*itertools.product("AD", ("label", "prediction"))])
def test_beta_is_the_mean_gradient_of_one_logit(variables: Any, wrt: Any, target: Any) -> None:
    weights, logits, betas = by_hand(variables, MAPS)
    found = terms_of(variables, wrt=wrt, target=target)
    wrong = 1 - logits.argmax(-1).astype(np.int32)
    misled = terms_of(variables, wrong, wrt=wrt, target=target)
    np.testing.assert_allclose(found.channel_weights, weights, rtol=1e-5)
    np.testing.assert_allclose(found.logits, logits, rtol=1e-4)
    for terms, labels in ((found, LABELS), (misled, wrong)):
        classes = labels if target == "label" else logits.argmax(-1)
        expected = betas[wrt][np.arange(4), classes]
        np.testing.assert_allclose(terms.cam_gradient, expected, rtol=1e-4, atol=1e-6)
    assert np.abs(betas["A"] - betas["D"]).max() > 1e-2
    assert (np.abs(found.cam_gradient - misled.cam_gradient).max() > 1e-2) == (target == "label")


def test_beta_of_mixed_labels_is_mixed(variables: Any) -> None:
    betas = by_hand(variables, MAPS)[2]["A"]
    shares = np.array([[0.3, 0.7], [1.0, 0.0], [0.5, 0.5], [0.0, 1.0]], np.float32)
    expected = np.einsum("bn,bnc->bc", shares, betas)
    np.testing.assert_allclose(terms_of(variables, shares).cam_gradient, expected, rtol=1e-4, atol=1e-6)


def test_beta_is_normalised_as_it_is_told(variables: Any) -> None:
    beta = by_hand(variables, MAPS)[2]["A"][np.arange(4), LABELS]
    squashed = sigmoid(beta)
    expected = {"sigmoid": squashed, "sigmoid_l1": squashed / squashed.sum(-1, keepdims=True), "softmax": softmax(beta)}
    for name, weights in expected.items():
        np.testing.assert_allclose(terms_of(variables, beta_norm=name).cam_weights, weights, rtol=1e-4)
    np.testing.assert_array_equal(terms_of(variables).cam_weights, terms_of(variables, beta_norm="sigmoid").cam_weights)


def test_the_loss_is_the_papers_unless_told_otherwise(variables: Any) -> None:
    weights, logits, betas = by_hand(variables, MAPS)
    cam = sigmoid(betas["A"][np.arange(4), LABELS])
    ratio = np.log(weights) - np.log(cam)
    symmetric, forward = ((weights - cam) * ratio).sum(-1) / 2, (weights * ratio).sum(-1)
    clipped = (weights * np.log(np.maximum(weights, 0.3) / np.maximum(cam, 0.3))).sum(-1)
    log_p = np.log(softmax(logits))
    entropy = -log_p[np.arange(4), LABELS]
    smooth = 0.8 * entropy - 0.2 * log_p.mean(-1)
    cases: list[tuple[dict[str, Any], float]] = [
        ({}, entropy.mean() + symmetric.mean()),
        ({"weight": 0.3}, entropy.mean() + 0.3 * symmetric.mean()),
        ({"weight": 0.0}, entropy.mean()),
        ({"kl": "forward"}, entropy.mean() + forward.mean()),
        ({"reduction": "sum", "weight": 0.3}, entropy.mean() + 0.3 * symmetric.sum()),
        ({"smoothing": 0.2}, smooth.mean() + symmetric.mean()),
        ({"kl": "forward", "epsilon": 0.3}, entropy.mean() + clipped.mean()),
    ]
    for knobs, expected in cases:
        loss, _ = ggam_loss(NET, variables, jnp.asarray(MAPS), jnp.asarray(LABELS), train=False, **knobs)
        assert float(loss) == pytest.approx(expected, rel=1e-4), knobs


@pytest.mark.parametrize("train", [False, True])
def test_statistics_of_the_batch_mix_the_images_and_the_running_ones_do_not(variables: Any, train: bool) -> None:
    other = np.concatenate([MAPS[:1], MAPS[1:] ** 2])

    def betas(statistics: Any) -> list[np.ndarray]:
        loss = partial(ggam_loss, NET, variables, train=train, statistics=statistics)
        return [np.asarray(loss(jnp.asarray(maps), jnp.asarray(LABELS))[1].cam_gradient) for maps in (MAPS, other)]

    running, batch = betas("running"), betas("batch")
    np.testing.assert_allclose(running[0][0], running[1][0], rtol=1e-6)
    assert np.abs(batch[0][0] - batch[1][0]).max() > 1e-3
    assert np.abs(running[0] - batch[0]).max() > 1e-3


def test_an_image_has_its_own_beta_in_evaluation(small: Any) -> None:
    loss = jax.jit(partial(ggam_loss, SMALL, train=False))
    labels = jnp.asarray([0, 1, 2, 0], jnp.int32)
    one, two = (loss(small, x, labels)[1] for x in (images(), images().at[1].add(1.0)))
    for a, b in zip(one[:6], two[:6], strict=True):
        np.testing.assert_allclose(a[0], b[0], rtol=1e-5, atol=1e-7)
        assert np.abs(a[1] - b[1]).max() > 1e-5


def test_training_gives_the_nets_own_logits_and_statistics(small: Any) -> None:
    labels = jnp.asarray([0, 1, 2, 0], jnp.int32)
    _, terms = jax.jit(partial(ggam_loss, SMALL, train=True))(small, images(), labels)
    logits, updates = jax.jit(partial(SMALL.apply, train=True, mutable=["batch_stats"]))(small, images())
    np.testing.assert_allclose(terms.logits, logits, rtol=1e-4, atol=1e-5)
    assert jax.tree.structure(terms.updates) == jax.tree.structure(updates)
    for a, b in zip(jax.tree.leaves(terms.updates), jax.tree.leaves(updates), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.optimized
@pytest.mark.parametrize("statistics", ["running", "batch"])
@pytest.mark.parametrize("stop", [True, False])
def test_gradients_are_those_of_finite_differences(small: Any, stop: bool, statistics: Any) -> None:
    with jax.enable_x64(True):
        wide = SMALL.clone(dtype=jnp.float64, param_dtype=jnp.float64)
        tree = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), small)
        x, labels = images().astype(jnp.float64), jnp.asarray([0, 1, 2, 0], jnp.int32)
        params = tree["params"]

        @jax.jit
        def run(params: Any) -> Any:
            def loss(params: Any) -> Any:
                knobs = {"stop_gradient": stop, "statistics": statistics, "beta_norm": "softmax", "weight": 50.0}
                return ggam_loss(wide, {**tree, "params": params}, x, labels, train=True, **knobs)

            return jax.value_and_grad(loss, has_aux=True)(params)

        (_, at), gradient = run(params)

        def value(params: Any) -> float:
            (loss, terms), _ = run(params)
            constant = terms.cross_entropy.mean() + 50 * guidance_loss(terms.channel_weights, at.cam_weights).mean()
            return float(constant if stop else loss)

        rng, length = np.random.default_rng(3), 1e-6
        for name in ("backbone", "attention", "head_fc1", "fc"):
            step = jax.tree.map(np.zeros_like, params)
            step[name] = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape), params[name])
            there, back = (value(jax.tree.map(lambda p, s, t=t: p + t * s, params, step)) for t in (length, -length))
            slope = sum(np.vdot(g, s) for g, s in zip(jax.tree.leaves(gradient), jax.tree.leaves(step), strict=True))
            assert (there - back) / (2 * length) == pytest.approx(slope, rel=1e-5), name


@pytest.mark.optimized
@pytest.mark.parametrize("stop", [True, False])
def test_only_a_flowing_gradient_reaches_the_head_through_beta(small: Any, stop: bool) -> None:
    labels = jnp.asarray([0, 1, 2, 0], jnp.int32)

    @jax.jit
    def gradients(params: Any) -> Any:
        def guidance(params: Any, constant: Any) -> Any:
            tree = {**small, "params": params}
            terms = ggam_loss(SMALL, tree, images(), labels, train=False, stop_gradient=stop)[1]
            cam_weights = terms.cam_weights if constant is None else constant
            return guidance_loss(terms.channel_weights, cam_weights).mean(), terms.cam_weights

        gradient, cam_weights = jax.grad(guidance, has_aux=True)(params, None)
        return gradient, jax.grad(guidance, has_aux=True)(params, cam_weights)[0]

    found, through_s = (flatten_dict(tree, sep="/") for tree in gradients(small["params"]))
    for path, gradient in found.items():
        if path.startswith(("head", "fc")):
            assert not np.any(through_s[path])
            assert np.any(gradient) != stop or path == "fc/bias", path
        elif stop:
            np.testing.assert_allclose(gradient, through_s[path], rtol=1e-5, atol=1e-7)
    difference = [np.abs(found[path] - through_s[path]).max() for path in found if path.startswith("backbone")]
    assert (max(difference) > 1e-4) != stop


@pytest.mark.parametrize("stop", [True, False])
@pytest.mark.parametrize("spatial_norm", ["sigmoid", "sum", "softmax"])
def test_maps_of_zeros_give_finite_losses_and_gradients(variables: Any, spatial_norm: Any, stop: bool) -> None:
    attention = partial(ChannelSpatialAttention, reduction=1, spatial_norm=spatial_norm)
    net, maps = NET.clone(attention=attention), jnp.zeros(MAPS.shape)

    @jax.jit
    def run(tree: Any) -> Any:
        loss = partial(ggam_loss, net, train=True, stop_gradient=stop)
        return jax.value_and_grad(loss, has_aux=True)(tree, maps, jnp.asarray(LABELS))

    for leaf in jax.tree.leaves(run(variables)):
        assert np.isfinite(leaf).all()


def test_jit_is_eager_and_vmap_is_the_loop(variables: Any) -> None:
    loss = partial(ggam_loss, NET, train=True, stop_gradient=False)
    trees = [variables, jax.tree.map(lambda leaf: leaf * 0.9, variables)]
    one = [loss(tree, jnp.asarray(MAPS), jnp.asarray(LABELS)) for tree in trees]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
    many = jax.jit(jax.vmap(loss, (0, None, None)))(stacked, MAPS, LABELS)
    jitted = [jax.jit(loss)(tree, MAPS, LABELS) for tree in trees]
    for number in range(2):
        for found in (jax.tree.map(lambda leaf, at=number: leaf[at], many), jitted[number]):
            for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(one[number]), strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_bfloat16_gives_float32_losses_near_those_of_float32(variables: Any) -> None:
    low = NET.clone(dtype=jnp.bfloat16)
    maps, labels = jnp.asarray(MAPS).astype(jnp.bfloat16), jnp.asarray(LABELS)
    near, terms = ggam_loss(low, variables, maps, labels, train=False)
    exact, _ = ggam_loss(NET, variables, maps.astype(jnp.float32), labels, train=False)
    assert {leaf.dtype.name for leaf in (near, *terms[:6])} == {"float32"}
    assert float(near) == pytest.approx(float(exact), rel=0.05)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"beta_norm": "softmx"}, "beta_norm='softmx' is not one of .*: did you mean 'softmax'?"),
        ({"kl": "reverse"}, "kl='reverse' is not one of 'symmetric', 'forward'"),
        ({"target": "labels"}, "target='labels' is not one of 'label', 'prediction': did you mean 'label'?"),
        ({"wrt": "d"}, "wrt='d' is not one of 'A', 'D'"),
        ({"reduction": "none"}, "reduction='none' is not one of 'mean', 'sum'"),
        ({"statistics": "moving"}, "statistics='moving' is not one of 'running', 'batch'"),
        ({"smoothing": 1.0}, "smoothing=1.0 must be at least 0 and below 1"),
        ({"labels": LABELS[:1]}, r"labels are int32\[1\], but must be integers \[4\] or floating \[4, 2\]"),
        ({"labels": LABELS.astype(np.float32)}, r"labels are float32\[4\], but must be integers \[4\]"),
        ({"model": ResNet((1,), BasicBlock, widths=(8,))}, "model=ResNet has no method .*attend.*: use a GGAMNet"),
        ({"model": NET.clone(attention=None)}, "model.attention=None sows no channel_weights"),
    ],
)
def test_wrong_arguments_are_named(variables: Any, knobs: dict[str, Any], message: str) -> None:
    arguments = {"model": NET, "variables": variables, "images": jnp.asarray(MAPS), "labels": LABELS} | knobs
    with pytest.raises(ValueError, match=message):
        ggam_loss(**arguments, train=False)


def test_another_attention_is_named() -> None:
    net = NET.clone(attention=partial(CBAM, reduction=1))
    tree = attnjax.init(net, jax.random.key(0), MAPS.shape)
    with pytest.raises(ValueError, match=r"CBAM.* sows no channel_weights: use ChannelSpatialAttention"):
        ggam_loss(net, tree, jnp.asarray(MAPS), jnp.asarray(LABELS), train=False)
