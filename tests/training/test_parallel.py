"""Every engine, and every number of devices, takes the same steps."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import attnjax
from attnjax.losses import GGAM, CrossEntropy
from attnjax.training import (
    PMAP_AXIS,
    Layout,
    Mixup,
    TrainState,
    TrainStep,
    jit_step,
    make_train_step,
    pmap_step,
    sgd,
)
from tests.training.nets import cbam_net, ggam_net

STEPS, SIZE = 20, 32
KEY = jax.random.key(0)
NARROW: dict[str, Any] = {"net": functools.partial(cbam_net, width=16), "count": 5}
PARTS = NARROW | {"accumulate": 2}
MIXED = NARROW | {"mix": Mixup(10, mixup=0.2, cutmix=1.0), "loss": CrossEntropy(0.1)}
GUIDED = {"net": ggam_net, "loss": GGAM(), "count": 5}
FLOWING = GUIDED | {"loss": GGAM(stop_gradient=False, beta_norm="softmax", reduction="sum", batch_size=SIZE)}
ALL: dict[str, Any] = {"axis_name": PMAP_AXIS}
"""Batch norm of `pmap` over all devices."""


@pytest.fixture
def x64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def prepared(images: jax.Array) -> jax.Array:
    """Images in [-1, 3], exact however XLA rounds products and sums."""
    return images.astype(jnp.float32) / 64 - 1


def step_of(
    net: Callable[[dict[str, Any]], Any] = cbam_net,
    loss: Any = None,
    norm: dict[str, Any] | None = None,
    engine: str = "jit",
    **options: Any,
) -> TrainStep:
    optimizer = sgd(1e-4, momentum=0.9, nesterov=True, weight_decay=5e-4)
    axis = {"axis_name": PMAP_AXIS} if engine == "pmap" else {}
    loss = CrossEntropy() if loss is None else loss
    return make_train_step(net(norm or {}), optimizer, loss, preprocess=prepared, ema=0.5, **axis, **options)


def fresh_state(step: TrainStep) -> TrainState:
    variables = attnjax.init(step.model, jax.random.key(1), (1, 8, 8, 1))
    return TrainState.create(variables, step.optimizer, ema=True)


def batch_at(number: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(number)
    return {"image": rng.integers(0, 256, (SIZE, 8, 8, 1), np.uint8), "label": rng.integers(0, 10, SIZE, np.int32)}


def run_steps(
    devices: int, count: int = STEPS, order: Any = slice(None), shards: int = 1, engine: str = "jit", **options: Any
) -> tuple[np.ndarray, TrainState]:
    """The losses of some steps on random images, each batch in an order, and the state after them."""
    layout, step = Layout.create(jax.devices()[:devices], shards), step_of(engine=engine, **options)
    state = fresh_state(step)
    zero = step.init(state, batch_at(0), KEY)
    compiled = pmap_step(step, layout) if engine == "pmap" else jit_step(step, layout, state)
    packed, losses = compiled.pack(layout.put_state(state)), []
    seed = compiled.pack(layout.put(np.uint32(3)))
    for number in range(count):
        batch = {name: rows[order] for name, rows in batch_at(number).items()}
        packed, sums = compiled(packed, compiled.pack(layout.put(zero)), batch, seed)
        totals = jax.device_get(compiled.unpack(sums))
        losses.append(float(totals["loss"]) / int(totals["count"]))
    return np.asarray(losses), jax.device_get(compiled.unpack(packed))


@functools.cache
def alone(name: str) -> tuple[np.ndarray, TrainState]:
    """What one device does, in float64."""
    return run_steps(1, **REFERENCES[name])


PMAP = {"engine": "pmap"}
REFERENCES: dict[str, dict[str, Any]] = {
    "plain": {},
    "narrow": NARROW,
    "groups of 4": NARROW | {"norm": {"groups": 8}},
    "groups of 2": NARROW | {"norm": {"groups": 16}},
    "parts": PARTS,
    "mixed": MIXED,
    "guided": GUIDED,
    "flowing, mixed": FLOWING | {"mix": MIXED["mix"]},
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("reference", "options"),
    [
        ("plain", {}),
        ("plain", PMAP | {"norm": ALL}),
        ("plain", {"shards": 4}),
        ("narrow", PMAP | NARROW | {"norm": ALL, "rematerialize": "stage"}),
        ("groups of 4", PMAP | NARROW),
        ("groups of 2", PMAP | NARROW | {"norm": {"groups": 2}}),
        ("parts", PMAP | PARTS | {"norm": ALL}),
        ("mixed", MIXED),
        pytest.param(
            "guided",
            PMAP | GUIDED | {"norm": ALL, "rematerialize": "block"},
            marks=[pytest.mark.optimized, pytest.mark.full],
        ),
        pytest.param(
            "flowing, mixed",
            PMAP | REFERENCES["flowing, mixed"] | {"norm": ALL},
            marks=[pytest.mark.optimized, pytest.mark.full],
        ),
    ],
)
def test_eight_devices_take_the_steps_of_one(reference: str, options: dict[str, Any]):
    one, many = alone(reference), run_steps(8, **options)
    np.testing.assert_allclose(many[0], one[0], rtol=1e-9)
    assert jax.tree.structure(many[1]) == jax.tree.structure(one[1])
    for a, b in zip(jax.tree.leaves(many[1]), jax.tree.leaves(one[1]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9)


@pytest.mark.usefixtures("x64")
def test_the_parts_of_a_batch_add_up_to_the_step_of_the_whole():
    evens_then_odds = [*range(0, SIZE, 2), *range(1, SIZE, 2)]
    whole = run_steps(1, order=evens_then_odds, norm={"groups": 2}, **NARROW)
    losses, state = alone("parts")
    np.testing.assert_allclose(losses, whole[0], rtol=1e-9)
    params = [jax.tree.leaves(state.variables["params"]) for state in (state, whole[1])]
    for a, b in zip(*params, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("kept", "convolutions", "relus"), [(None, 20, 9), ("block", 27, 15), ("stage", 27, 16)])
def test_rematerialisation_computes_what_is_not_kept_again(kept: Any, convolutions: int, relus: int):
    """Of two blocks, `stage` keeps the second's output alone, and computes the ReLU at the end of the first again."""
    step = step_of(functools.partial(cbam_net, blocks=2), rematerialize=kept)
    state = fresh_state(step)
    text = jax.jit(step).lower(state, step.init(state, batch_at(0), KEY), batch_at(0), KEY).as_text()
    assert (text.count("stablehlo.convolution("), text.count("call @relu")) == (convolutions, relus)


@pytest.mark.full
def test_eight_devices_take_the_steps_of_one_in_float32():
    one, jit, pmap = run_steps(1)[0], run_steps(8)[0], run_steps(8, **PMAP, norm=ALL)[0]
    np.testing.assert_allclose(jit, one, rtol=1e-5)
    np.testing.assert_allclose(pmap, one, rtol=1e-5)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("options", [NARROW | {"norm": {"groups": 8}}, PARTS])
def test_statistics_of_parts_of_a_batch_are_other_statistics(options: dict[str, Any]):
    assert np.abs(run_steps(8, **options | {"count": 1})[0] - alone("narrow")[0][0]) > 1e-4


def test_sharded_parameters_lie_in_parts_on_the_devices_and_small_ones_whole():
    layout, step = Layout.create(shards=4), step_of()
    zero = step.init(fresh_state(step), batch_at(0), KEY)
    state = layout.put_state(fresh_state(step))
    kernel = state.variables["params"]["stage1_block0"]["conv2"]["kernel"]
    assert {shard.data.shape for shard in kernel.addressable_shards} == {(3, 3, 16, 64)}
    for leaf in jax.tree.leaves(state):
        assert len(leaf.addressable_shards) == 8
        parts = leaf.size // leaf.addressable_shards[0].data.size
        assert parts == (4 if leaf.size >= 2**14 else 1)
    after, _ = jit_step(step, layout, state)(state, layout.put(zero), batch_at(0), layout.put(np.uint32(0)))
    assert jax.tree.map(lambda leaf: leaf.sharding, after) == layout.shardings(after)


def test_shards_must_divide_the_devices():
    with pytest.raises(ValueError, match="shards=3 does not divide the 8 devices"):
        Layout.create(shards=3)


def test_an_engine_refuses_what_is_not_its_own():
    layout, step = Layout.create(shards=4), step_of()
    with pytest.raises(ValueError, match="shards=4"):
        pmap_step(step, layout)
    with pytest.raises(ValueError, match="axis_name='device'"):
        jit_step(step_of(engine="pmap"), layout, fresh_state(step))


def test_a_compiled_step_transfers_nothing_implicitly():
    layout, step = Layout.create(jax.devices()[:2]), step_of()
    state = fresh_state(step)
    compiled, sums = jit_step(step, layout, state), layout.put(step.init(state, batch_at(0), KEY))
    packed, seed = layout.put_state(state), layout.put(np.uint32(0))
    with jax.transfer_guard("disallow"):
        compiled(packed, sums, batch_at(0), seed)
