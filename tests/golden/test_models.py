"""Whole nets against the released PyTorch code: logits in float32; logits, gradients and statistics in float64."""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import attnjax
from tests.golden import nets
from tests.golden.constructors import Mapped, map_constructor
from tests.golden.parity import convert, gradients_in_torch_layout
from tests.golden.reference import Fixture, sample

RTOL, RTOL64, MARGIN = 1e-5, 1e-9, 20


def build(fixture: Fixture, **dtypes: Any) -> tuple[nn.Module, Mapped]:
    mapped = map_constructor(fixture.manifest["constructor"], nets.RULES)
    return mapped.build(**dtypes), mapped


def test_model_has_the_reference_size_and_logits(model: Fixture) -> None:
    net, mapped = build(model)
    x = jnp.asarray(model.images("eval"))
    assert attnjax.count_macs(net, (1, *x.shape[1:])) == model.manifest["macs"]
    variables, _ = convert(model, net, mapped, x.shape)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == model.manifest["params_used"]
    logits = jax.jit(partial(net.apply, train=False))(variables, x)
    reference = model.arrays["eval/logits"]
    noise = model.manifest["noise_float32_vs_float64"]["eval_logits_maxabs"]
    allowed = max(MARGIN * noise, RTOL * float(reference.max() - reference.min()))
    model.assert_close("eval/logits", logits, atol=allowed)


def test_model_gives_the_reference_gradients_and_statistics_in_float64(trained_model: Fixture) -> None:
    fixture = trained_model
    with jax.enable_x64(True):
        net, mapped = build(fixture, dtype=jnp.float64, param_dtype=jnp.float64)
        x, y = (jnp.asarray(fixture.images(mode), jnp.float64) for mode in ("eval", "train"))
        variables, names = convert(fixture, net, mapped, x.shape)
        variables = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), variables)
        trial = jax.jit(partial(net.apply, train=False))(variables, x)
        fixture.assert_close("eval/logits64", trial, RTOL64)
        step = partial(train_step, net, labels=jnp.asarray(fixture.manifest["train"]["labels"]))
        (loss, (logits, updates)), grads = jax.jit(step)(variables, y)
        fixture.assert_close("train/logits64", logits, RTOL64)
        fixture.assert_close("train64/loss", loss, RTOL64)
        check_gradients(fixture, gradients_in_torch_layout(grads, names))
        check_statistics(fixture, names.statistics(updates))


def train_step(net: nn.Module, variables: Any, x: jax.Array, labels: jax.Array) -> Any:
    def loss(params: Any) -> Any:
        logits, updates = net.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])
        log_p = jax.nn.log_softmax(logits)
        return -jnp.take_along_axis(log_p, labels[:, None], axis=1).mean(), (logits, updates)

    return jax.value_and_grad(loss, has_aux=True)(variables["params"])


def check_gradients(fixture: Fixture, grads: dict[str, np.ndarray]) -> None:
    """Norms of all gradients and samples of some; the absolute bound is for those that are zero in exact arithmetic."""
    manifest = fixture.manifest
    zero = set(manifest["noise_float32_vs_float64"].get("zero_grad_params", ()))
    norms = dict(zip(manifest["params"], fixture.arrays["train64/grad_norm"], strict=True))
    assert {name for name, norm in norms.items() if not np.isnan(norm)} == set(grads)
    atol = RTOL64 * max(norms[name] for name in grads)
    wrong = {
        name: (found, norms[name])
        for name, gradient in grads.items()
        if abs((found := np.linalg.norm(gradient)) - norms[name]) > (atol if name in zero else RTOL64 * norms[name])
    }
    assert not wrong, f"norms of gradients, ours and the reference's: {wrong}"
    for name in manifest["grad_samples"]:
        if name in grads:
            rtol, bound = (0.0, atol) if name in zero else (RTOL64, 0.0)
            fixture.assert_close(f"train64/grad/{name}", sample(grads[name]), rtol, bound)


def check_statistics(fixture: Fixture, statistics: dict[str, np.ndarray]) -> None:
    """Running means and variances after the step, which the reference made in float32."""
    for name in fixture.manifest["buffer_samples"]:
        fixture.assert_close(f"train/buffer/{name}", statistics[name], RTOL)
    order = fixture.manifest["buffer_norm_order"]
    norms = np.array([np.linalg.norm(statistics[name]) for name in order])
    fixture.assert_close("train/buffer_norm", norms, RTOL)
