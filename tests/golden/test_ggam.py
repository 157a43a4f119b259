"""GGAM's net against the released PyTorch code: its logits, channel weights and running statistics."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

import attnjax
from tests.golden import nets
from tests.golden.constructors import map_constructor
from tests.golden.parity import convert
from tests.golden.reference import Fixture

RTOL, RTOL64 = 1e-5, 1e-9


def test_ggam_net_gives_the_reference_logits(ggam: Fixture) -> None:
    mapped = map_constructor(ggam.manifest["constructor"], nets.RULES)
    net, x = mapped.build(), jnp.asarray(ggam.images("eval"))
    assert attnjax.count_parameters(net, x.shape) == ggam.manifest["params_trainable"]
    variables, _ = convert(ggam, net, mapped, x.shape)
    logits, state = jax.jit(partial(net.apply, train=False, mutable=["intermediates"]))(variables, x)
    ggam.assert_close("eval/logits", logits, RTOL)
    ggam.assert_close("eval/attention", state["intermediates"]["attention"]["channel_weights"][0], RTOL)


def test_ggam_net_gives_the_reference_training_logits_and_statistics_in_float64(ggam: Fixture) -> None:
    mapped = map_constructor(ggam.manifest["constructor"], nets.RULES)
    with jax.enable_x64(True):
        net = mapped.build(dtype=jnp.float64, param_dtype=jnp.float64)
        x = jnp.asarray(ggam.images("train"), jnp.float64)
        variables, names = convert(ggam, net, mapped, x.shape)
        variables = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), variables)
        run = jax.jit(partial(net.apply, train=True, mutable=["intermediates", "batch_stats"]))
        logits, state = run(variables, x)
        ggam.assert_close("train64/logits", logits, RTOL64)
        ggam.assert_close("train64/attention", state["intermediates"]["attention"]["channel_weights"][0], RTOL64)
        statistics = names.statistics({"batch_stats": state["batch_stats"]})
    assert statistics
    for name, value in statistics.items():
        ggam.assert_close(f"train/buffer/{name}", value, RTOL)
