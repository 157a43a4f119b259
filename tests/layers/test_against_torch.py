"""Pooling and resizing give PyTorch's numbers and gradients, which tests/layers/torch.npz holds (PyTorch 2.13, float64).

Inputs of pools are small integers, so that windows have equal maxima. The gradient is that of the sum of the output
times -3, -2, ..., 3, -3, ... in the order (b, h, w, c).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnjax.layers import avg_pool, max_pool, resize_bilinear, resize_nearest


def _cases() -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    stored = np.load(Path(__file__).parent / "torch.npz")
    values = stored["values"]
    for name, of_input, of_output in zip(stored["names"], stored["inputs"], stored["outputs"], strict=True):
        sizes = [of_input.prod(), of_output.prod(), of_input.prod()]
        x, y, gradient, values = np.split(values, np.cumsum(sizes))
        yield str(name), x.reshape(of_input), y.reshape(of_output), gradient.reshape(of_input)


def _function(name: str) -> Callable[[jax.Array], jax.Array]:
    kind, _, *settings = name.split()
    numbers = {key: int(value) for key, value in (setting.split("=") for setting in settings)}
    if kind == "max":
        return lambda x: max_pool(x, **numbers)
    if kind == "avg":
        return lambda x: avg_pool(x, **numbers)
    size = (numbers["rows"], numbers["columns"])
    if kind == "nearest":
        return lambda x: resize_nearest(x, size)
    return lambda x: resize_bilinear(x, size, align_corners=bool(numbers["align_corners"]))


@pytest.mark.parametrize("kind", ["max", "avg", "bilinear", "nearest"])
def test_numbers_and_gradients_are_those_of_torch(kind: str) -> None:
    compared = 0
    with jax.enable_x64(True), jax.disable_jit():
        for name, x, expected, gradient in _cases():
            if name.split()[0] != kind:
                continue
            y, pullback = jax.vjp(_function(name), jnp.asarray(x))
            weights = jnp.arange(y.size).reshape(y.shape) % 7 - 3
            np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12, err_msg=name)
            ours = pullback(weights.astype(y.dtype))[0]
            np.testing.assert_allclose(ours, gradient, rtol=1e-12, atol=1e-12, err_msg=name)
            compared += 1
    assert compared == {"max": 24, "avg": 48, "bilinear": 32, "nearest": 16}[kind]
