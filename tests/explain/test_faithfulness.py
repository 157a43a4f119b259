"""Scores of maps against numbers worked out by hand, a direct solver, and loops."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnjax.explain import insertion_deletion, pointing_game, road
from attnjax.explain._road import impute


class Share(nn.Module):
    """Class 1 has the probability that a sum of the pixels says, weighted from 1/n to n/n in reading order."""

    def __call__(self, x: jax.Array) -> jax.Array:
        weights = jnp.arange(1, x[0].size + 1, dtype=x.dtype).reshape(1, *x.shape[1:])
        share = jnp.sum(x * weights, (1, 2, 3)) / jnp.sum(weights)
        return jnp.log(jnp.stack([1 - share, share], -1).clip(1e-12))


IMAGES = jnp.ones((1, 1, 4, 1))
RISING = jnp.array([[[0.0, 1.0, 2.0, 3.0]]])
"""Takes the pixels by falling weight: 0.4, 0.3, 0.2 and 0.1 of the score."""


def run(score: Any, net: nn.Module, *arguments: Any, target: Any = None, **options: Any) -> Any:
    """The score, compiled, which is quicker than step by step."""
    return jax.jit(partial(score, net, {}, target=target, **options))(*arguments)


inserted = partial(run, insertion_deletion)
removed_by = partial(run, road)


def noise(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).random(shape), jnp.float32)


def close(actual: Any, expected: Any, atol: float = 1e-6) -> None:
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=atol)


def test_insertion_and_deletion_are_areas_under_the_curves() -> None:
    scores = inserted(Share(), IMAGES, RISING, target=1, steps=4, insertion="zero")
    close(scores.insertion_curve, [[0, 0.4, 0.7, 0.9, 1]])
    close(scores.deletion_curve, [[1, 0.6, 0.3, 0.1, 0]])
    close(scores.insertion, [(0.4 + 0.7 + 0.9 + 0.5) / 4])
    close(scores.deletion, [(0.6 + 0.3 + 0.1 + 0.5) / 4])
    halves = inserted(Share(), IMAGES, RISING, target=1, steps=2, insertion="zero")
    close(halves.insertion_curve, [[0, 0.7, 1]])
    other = inserted(Share(), IMAGES, RISING, target=np.array([0]), steps=4)
    close(other.deletion_curve, [[0, 0.4, 0.7, 0.9, 1]])


def test_no_target_is_the_class_of_the_whole_image_and_a_callable_gives_its_own_number() -> None:
    close(inserted(Share(), IMAGES, RISING, steps=4).deletion_curve, [[1, 0.6, 0.3, 0.1, 0]])
    doubled = inserted(Share(), IMAGES, RISING, target=lambda y: 2 * jnp.exp(y[:, 1]), steps=4)
    close(doubled.deletion_curve, [[2, 1.2, 0.6, 0.2, 0]])


def test_pixels_of_equal_value_come_in_reading_order_and_there_may_be_fewer_than_steps() -> None:
    scores = inserted(Share(), IMAGES, jnp.zeros((1, 1, 4)), target=1, steps=8)
    close(scores.deletion_curve, [[1, 1, 0.9, 0.9, 0.7, 0.7, 0.4, 0.4, 0]])


def test_a_blurred_image_keeps_what_is_constant_and_spreads_a_point_as_a_gaussian() -> None:
    constant = inserted(Share(), 0.5 * IMAGES, RISING, target=1, steps=2, deletion="blur")
    close(constant.insertion_curve, [[0.5, 0.5, 0.5]])
    close(constant.deletion_curve, [[0.5, 0.5, 0.5]])

    def pixel(outputs: jax.Array) -> jax.Array:
        return outputs[:, 32, 34, 0]

    class Same(nn.Module):
        def __call__(self, x: jax.Array) -> jax.Array:
            return x

    point = jnp.zeros((1, 64, 64, 1)).at[0, 32, 32, 0].set(1.0)
    begun = inserted(Same(), point, point[..., 0], target=pixel, steps=1, sigma=2.0).insertion_curve
    close(begun, [[np.exp(-0.5) / (2 * np.pi * 4), 0]])


def test_imputation_solves_the_system_that_a_direct_solver_does() -> None:
    h, w = 7, 6
    image, removed = np.asarray(noise(h, w, 2)), np.asarray(noise(h, w, seed=1)) < 0.6
    system, right = np.eye(h * w), image.reshape(-1, 2) * ~removed.reshape(-1, 1)
    for y, x in np.argwhere(removed):
        row = np.zeros((h, w))
        for dy, dx in np.ndindex(3, 3):
            if 0 <= y + dy - 1 < h and 0 <= x + dx - 1 < w and (dy, dx) != (1, 1):
                row[y + dy - 1, x + dx - 1] = 1 / 6 if 1 in (dy, dx) else 1 / 12
        system[y * w + x] -= row.ravel() / row.sum()
    expected = np.linalg.solve(system, right).reshape(h, w, 2)
    close(jax.jit(impute)(jnp.asarray(image), jnp.asarray(removed)), expected, 1e-4)


def test_imputation_of_a_constant_image_is_that_image_and_of_nothing_is_zero() -> None:
    image = jnp.full((8, 8, 1), 0.7)
    fill = jax.jit(impute)
    close(fill(image, noise(8, 8) < 0.9), image, 1e-4)
    close(fill(image, jnp.ones((8, 8), bool)), jnp.zeros((8, 8, 1)))


class First(nn.Module):
    """Class 1 is certain where the first pixel is bright."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.stack([jnp.zeros(len(x)), 100 * x[:, 0, 0, 0] - 50], -1)


def test_road_tells_maps_that_name_the_pixel_first_from_those_that_name_it_last() -> None:
    images = jnp.zeros((2, 4, 4, 1)).at[:, 0, 0, 0].set(1.0)
    maps = images[..., 0] * jnp.array([1.0, -1.0]).reshape(2, 1, 1)
    scores = removed_by(First(), images, maps, target=1, shares=(0.25, 0.5))
    close(scores.most, [[0, 0], [1, 1]])
    close(scores.least, [[1, 1], [0, 0]])
    close(scores.score, [0.5, -0.5])


def test_road_of_a_constant_image_is_zero_for_any_map_and_noise_is_added_to_removed_pixels_alone() -> None:
    maps, images = noise(2, 6, 5), jnp.full((2, 6, 5, 1), 0.3)
    still = removed_by(Share(), images, maps, target=1, noise=0.0)
    close(still.score, [0, 0])
    close(still.most, np.full((2, 9), 0.3), 1e-4)
    few = jax.jit(partial(road, Share(), {}, target=1, shares=[1 / 30], noise=0.1))
    one, same, other = (few(images, maps, key=key) for key in (None, jax.random.key(0), jax.random.key(1)))
    np.testing.assert_array_equal(one.most, same.most)
    for scores, key in ((one, 0), (other, 1)):
        grain = 0.1 * jax.random.normal(jax.random.key(key), (6, 5, 1)).ravel()
        place = int(maps[0].argmax())
        close(scores.most[0, 0], 0.3 + float(grain[place]) * (place + 1) / 465, 1e-5)


@pytest.mark.parametrize("score", [insertion_deletion, partial(road, shares=(0.3, 0.6))])
def test_scores_are_the_same_compiled_mapped_and_in_a_loop_and_finite_for_maps_of_zeros(score: Any) -> None:
    images, maps, target = noise(3, 8, 6, 2), noise(3, 8, 6, seed=1).at[2].set(0.0), jnp.array([1, 0, 1])
    batch = partial(score, Share(), {})
    eager = batch(images, maps, target)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(eager))
    same = partial(jax.tree.map, partial(close, atol=1e-4), eager)
    same(jax.jit(batch)(images, maps, target))

    def one(image: jax.Array, values: jax.Array, index: jax.Array) -> Any:
        return jax.tree.map(lambda leaf: leaf[0], batch(image[None], values[None], index))

    same(jax.jit(jax.vmap(one))(images, maps, target))
    compiled = jax.jit(one)
    loop = [compiled(*row) for row in zip(images, maps, target, strict=True)]
    same(jax.tree.map(lambda *leaves: np.stack(leaves), *loop))


def test_scores_in_float64_and_bfloat16() -> None:
    with jax.enable_x64(True):
        images, maps = np.asarray(noise(1, 4, 4, 1), np.float64), np.asarray(noise(1, 4, 4, seed=1), np.float64)
        for score in (insertion_deletion, road):
            leaves = jax.tree.leaves(run(score, Share(), images, maps, target=1))
            assert {leaf.dtype for leaf in leaves} == {np.dtype("float64")}
    low = removed_by(Share(), jnp.ones((1, 4, 4, 1), jnp.bfloat16), noise(1, 4, 4), target=1)
    assert np.isfinite(low.score).all()


def test_the_pointing_game_counts_the_highest_pixel() -> None:
    maps = jnp.zeros((4, 6, 5)).at[:, 2, 3].set(1.0)
    boxes = jnp.array([[2, 3, 3, 4], [0, 0, 2, 5], [3, 4, 6, 5], [0, 0, 6, 3]])
    assert pointing_game(maps, boxes).tolist() == [True, False, False, False]
    assert pointing_game(maps, boxes, tolerance=1).tolist() == [True, True, False, True]
    assert pointing_game(maps, boxes, tolerance=1.5).tolist() == [True, True, True, True]
    assert jax.jit(pointing_game)(maps, boxes).tolist() == [True, False, False, False]
    one = jax.vmap(lambda values, box: pointing_game(values[None], box[None])[0])
    assert one(maps, boxes.astype(jnp.float32)).tolist() == [True, False, False, False]


def test_of_several_highest_pixels_the_first_counts_and_a_map_of_one_value_misses() -> None:
    whole = jnp.array([[0, 0, 2, 2]])
    assert pointing_game(jnp.array([[[0.0, 1.0], [1.0, 1.0]]]), jnp.array([[0, 1, 1, 2]])).tolist() == [True]
    for value in (0.0, 3.0):
        assert pointing_game(jnp.full((1, 2, 2), value), whole).tolist() == [False]


def test_what_does_not_fit() -> None:
    maps, images = jnp.zeros((2, 4, 4)), jnp.zeros((2, 4, 4, 1))
    cases: list[tuple[Any, str]] = [
        (lambda: insertion_deletion(Share(), {}, images, maps[:1]), "maps [1, 4, 4] must be (b, h, w) of images [2, 4"),
        (lambda: insertion_deletion(Share(), {}, images, maps, steps=0), "steps=0 must be positive"),
        (lambda: insertion_deletion(Share(), {}, images, maps, sigma=0.0), "sigma=0.0 must be positive"),
        (
            lambda: insertion_deletion(Share(), {}, images, maps, deletion="zeros"),
            "deletion='zeros' is not one of 'blur', 'zero': did you mean 'zero'?",
        ),
        (lambda: insertion_deletion(Share(), {}, images, maps, 2), "target=2 must lie in 0..1"),
        (lambda: road(Share(), {}, images, maps[..., :3]), "maps [2, 4, 3] must be (b, h, w) of images [2, 4, 4, 1]"),
        (lambda: road(Share(), {}, images, maps, shares=(0.5, 1.0)), "shares=(0.5, 1.0) must lie between 0 and 1"),
        (lambda: road(Share(), {}, images, maps, shares=()), "shares=() must lie between 0 and 1"),
        (lambda: road(Share(), {}, images, maps, noise=-1.0), "noise=-1.0 be at least 0"),
        (
            lambda: pointing_game(maps, jnp.zeros((2, 2))),
            "maps [2, 4, 4] and boxes [2, 2] must be (b, h, w) and (b, 4)",
        ),
        (lambda: pointing_game(maps, jnp.zeros((2, 4)), tolerance=-1), "tolerance=-1 must be at least 0"),
    ]
    for run, message in cases:
        with pytest.raises(ValueError, match=re.escape(message)):
            run()
