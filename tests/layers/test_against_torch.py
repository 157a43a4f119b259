"""Pooling and resizing give PyTorch's numbers and gradients, as tests/layers/torch.npz holds them (2.13, float64).

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


@pytest.mark.parametrize(("kind", "count"), [("max", 14), ("avg", 28), ("bilinear", 18), ("nearest", 9)])
def test_numbers_and_gradients_are_those_of_torch(kind: str, count: int) -> None:
    cases = [case for case in _cases() if case[0].split()[0] == kind]
    assert len(cases) == count

    @jax.jit
    def compute(inputs: list[jax.Array]) -> list[tuple[jax.Array, jax.Array]]:
        results = []
        for (name, *_), x in zip(cases, inputs, strict=True):
            y, pullback = jax.vjp(_function(name), x)
            weights = jnp.arange(y.size).reshape(y.shape) % 7 - 3
            results.append((y, pullback(weights.astype(y.dtype))[0]))
        return results

    with jax.enable_x64(True):
        results = compute([jnp.asarray(x) for _, x, _, _ in cases])
    for (name, _, y, gradient), ours in zip(cases, results, strict=True):
        np.testing.assert_allclose(ours[0], y, rtol=1e-12, atol=1e-12, err_msg=name)
        np.testing.assert_allclose(ours[1], gradient, rtol=1e-12, atol=1e-12, err_msg=name)


def test_nearest_rounds_the_ratio_as_torch() -> None:
    """In float32 23 (14 / 46) is below 7."""
    pixels = jnp.arange(14.0).reshape(1, 1, 14, 1)
    assert resize_nearest(pixels, (1, 46))[0, 0, 22:25, 0].tolist() == [6.0, 6.0, 7.0]


def test_max_pool_passes_nan_on() -> None:
    x = jnp.array([1.0, jnp.nan, 3.0, 0.0]).reshape(1, 1, 4, 1)
    x = jnp.concatenate([x, jnp.zeros_like(x)], 1)
    np.testing.assert_array_equal(max_pool(x, 2, 1).ravel(), [np.nan, np.nan, 3.0])


@pytest.mark.parametrize("resize", [resize_nearest, resize_bilinear])
def test_resizing_says_which_size_is_wrong(resize: Callable[..., jax.Array]) -> None:
    with pytest.raises(ValueError, match=r"size=\(0, 3\) must be at least one pixel a side"):
        resize(jnp.zeros((1, 2, 2, 1)), (0, 3))


def test_pools_and_resizing_keep_bfloat16() -> None:
    x = jnp.arange(16.0, dtype=jnp.bfloat16).reshape(1, 4, 4, 1)
    for y in (max_pool(x, 2, 2), avg_pool(x, 2, 2), resize_bilinear(x, (3, 3)), resize_nearest(x, (8, 8))):
        assert y.dtype == jnp.bfloat16
    assert avg_pool(x, 4, 4).item() == 7.5
