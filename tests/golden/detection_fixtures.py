"""The detection fixtures: how their keys are compared, and with what."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tests.golden.reference import Fixture, noise

RTOL, RTOL64, MARGIN = 1e-5, 1e-9, 20

Arrays = Mapping[str, Any]
Produce = Callable[[Fixture, Any], dict[str, Any]]
"""Values by key, from a fixture and the dtype to compute in."""


def check(fixture: Fixture, produce: Produce, inputs: Collection[str]) -> None:
    """Compares what `produce` gives in float32, and in float64 with the keys that end in 64.

    Every key must be produced or match one of `inputs`, regular expressions. A compact fixture has no float32 keys
    beside those of float64: what float64 gives is compared with both.
    """
    keys, compact = set(fixture.keys), fixture.manifest.get("compact", False)
    bases = {key.removesuffix("64") if compact or key.removesuffix("64") in keys else key for key in keys}
    noise_of = (fixture.manifest.get("noise_float32_vs_float64") or {}).get("max", 0.0)
    rtol, found = max(RTOL, MARGIN * noise_of), {}
    if not compact:
        found = produce(fixture, jnp.float32)
        compare(fixture, found, rtol)
    if compact or any(f"{key}64" in keys for key in bases):
        with jax.enable_x64(True):
            wide = produce(fixture, jnp.float64)
            compare(fixture, {f"{key}64": value for key, value in wide.items() if f"{key}64" in keys}, RTOL64)
            if compact:
                compare(fixture, {key: value for key, value in wide.items() if key in keys}, rtol)
                found = wide
    known = re.compile("|".join(inputs) or "(?!)")
    missing = {key for key in bases - found.keys() if not known.fullmatch(key)}
    assert not missing, f"{fixture.manifest['id']}: not mapped: {sorted(missing)}"


def compare(fixture: Fixture, found: Mapping[str, Any], rtol: float) -> None:
    """Values within rtol of the largest one of the reference; integers and NaNs equal."""
    for key, value in found.items():
        reference, value = fixture.arrays[key], np.asarray(value)
        assert value.shape == reference.shape, f"{key}: shape {value.shape} is not {reference.shape}"
        if reference.dtype.kind in "iu":
            np.testing.assert_array_equal(value, reference, err_msg=key)
            continue
        expected, got = reference.astype(np.float64), value.astype(np.float64)
        np.testing.assert_array_equal(np.isnan(got), np.isnan(expected), err_msg=key)
        largest = np.nanmax(np.abs(expected), initial=0.0)
        error = np.nanmax(np.abs(got - expected), initial=0.0)
        assert error <= rtol * largest, f"{key}: error {error:.2e}, allowed {rtol * largest:.2e}"


def given(fixture: Fixture, key: str, dtype: Any) -> jax.Array:
    """An input that the fixture stores; numbers in the type to compute in."""
    array = fixture.arrays[key]
    return jnp.asarray(array, dtype if array.dtype.kind == "f" else None)


def drawn(seed: int, shape: list[int], dtype: Any) -> jax.Array:
    """An input that the fixture gives by its seed."""
    return jnp.asarray(noise(seed, shape), dtype)
