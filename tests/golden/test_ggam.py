"""GGAM's net and loss against the released PyTorch code: logits, channel weights, statistics, loss and gradients."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import attnjax
from attnjax.losses import GGAMTerms, ggam_loss
from tests.golden import nets
from tests.golden.constructors import map_constructor
from tests.golden.parity import convert, gradients_in_torch_layout
from tests.golden.reference import Fixture, sample

RTOL, RTOL64 = 1e-5, 1e-9


def test_ggam_net_gives_the_reference_logits(ggam: Fixture) -> None:
    mapped = map_constructor(ggam.manifest["constructor"], nets.RULES)
    net, x = mapped.build(), jnp.asarray(ggam.images("eval"))
    assert attnjax.count_parameters(net, x.shape) == ggam.manifest["params_trainable"]
    variables, _ = convert(ggam, net, mapped, x.shape)
    logits, state = jax.jit(partial(net.apply, train=False, mutable=["intermediates"]))(variables, x)
    ggam.assert_close("eval/logits", logits, RTOL)
    ggam.assert_close("eval/attention", state["intermediates"]["attention"]["channel_weights"][0], RTOL)


@pytest.mark.parametrize(("dtype", "rtol"), [(jnp.float64, RTOL64), (jnp.float32, RTOL)])
def test_ggam_loss_gives_the_reference_step(ggam: Fixture, dtype: Any, rtol: float) -> None:
    """The script forgets to clear the gradient of the highest logits, so that its step holds it too."""
    mapped = map_constructor(ggam.manifest["constructor"], nets.RULES)
    with jax.enable_x64(dtype == jnp.float64):
        net = mapped.build(dtype=dtype, param_dtype=dtype)
        x, labels = jnp.asarray(ggam.images("train"), dtype), jnp.asarray(ggam.manifest["train"]["labels"], jnp.int32)
        variables, names = convert(ggam, net, mapped, x.shape)
        variables = jax.tree.map(lambda leaf: leaf.astype(dtype), variables)

        def loss(params: Any) -> tuple[jax.Array, GGAMTerms]:
            return ggam_loss(
                net,
                {**variables, "params": params},
                x,
                labels,
                train=True,
                beta_norm="softmax",
                kl="forward",
                target="prediction",
                wrt="D",
                reduction="sum",
                statistics="batch",
            )

        def top(params: Any) -> jax.Array:
            logits, _ = net.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])
            return logits.max(-1).sum()

        @jax.jit
        def step(params: Any) -> Any:
            return jax.value_and_grad(loss, has_aux=True)(params), jax.grad(top)(params)

        ((value, terms), grads), leaked = step(variables["params"])
        statistics = names.statistics({"batch_stats": terms.updates["batch_stats"]})
        both = jax.tree.map(jnp.add, grads, leaked)
        expected = {
            "logits": terms.logits,
            "attention": terms.channel_weights,
            "cam_gradient_mean": terms.cam_gradient,
            "cam_weights": terms.cam_weights,
            "ce": terms.cross_entropy.mean(),
            "kl": terms.guidance.sum(),
            "loss": value,
        }
    for key, found in expected.items():
        ggam.assert_close(f"train64/{key}", found, rtol)
    for key, tree in {"grad_top": leaked, "grad_loss": grads, "grad_official_step": both}.items():
        check_gradients(ggam, key, gradients_in_torch_layout(tree, names), rtol)
    assert statistics
    for name, statistic in statistics.items():
        ggam.assert_close(f"train/buffer/{name}", statistic, RTOL)


def check_gradients(fixture: Fixture, key: str, grads: dict[str, np.ndarray], rtol: float) -> None:
    """The norm of each gradient, with an absolute bound for those zero in exact arithmetic, and all samples as one."""
    norms = dict(zip(fixture.manifest["params"], fixture.arrays[f"train64/{key}_norm"], strict=True))
    assert set(norms) == set(grads)
    largest = max(norms.values())
    for name, norm in norms.items():
        bound = rtol * (norm if norm > 1e-12 * largest else largest)
        assert np.linalg.norm(grads[name].astype(np.float64)) == pytest.approx(norm, rel=0, abs=bound), (key, name)
    names = fixture.manifest["grad_samples"]
    expected = np.concatenate([fixture.arrays[f"train64/{key}/{name}"] for name in names])
    found = np.concatenate([sample(grads[name]).astype(np.float64) for name in names])
    assert np.linalg.norm(found - expected) <= rtol * np.linalg.norm(expected), key
