"""Colours of overlays, and what a gallery shows."""

from __future__ import annotations

import re

import jax.numpy as jnp
import numpy as np
import pytest

from attnjax.explain import Column, gallery, overlay

MAPS = jnp.array([[[0.0, 0.25], [0.5, 1.0]]])


def test_an_overlay_goes_from_blue_over_green_to_red():
    colours = overlay(jnp.zeros((1, 2, 2, 3)), MAPS, opacity=1.0)
    np.testing.assert_allclose(colours[0, 0], [[0, 0, 0.5], [0, 0.5, 1]], atol=1e-7)
    np.testing.assert_allclose(colours[0, 1], [[0.5, 1, 0.5], [0.5, 0, 0]], atol=1e-7)


def test_images_may_be_bytes_and_gray():
    rgb = jnp.full((1, 2, 2, 3), 0.2)
    gray = jnp.full((1, 2, 2, 1), 51, jnp.uint8)
    np.testing.assert_allclose(overlay(gray, MAPS), overlay(rgb, MAPS), atol=1e-7)
    np.testing.assert_allclose(overlay(rgb, MAPS, opacity=0.0), rgb, atol=1e-7)


@pytest.mark.parametrize(
    ("images", "maps", "opacity", "message"),
    [
        ((1, 2, 2, 2), (1, 2, 2), 0.5, "images [1, 2, 2, 2] and maps [1, 2, 2] must be (b, h, w, 1 or 3), (b, h, w)"),
        ((2, 2, 2, 3), (1, 2, 2), 0.5, "images [2, 2, 2, 3] and maps [1, 2, 2] must be (b, h, w, 1 or 3), (b, h, w)"),
        ((1, 2, 2, 3), (1, 2, 2), 1.5, "opacity=1.5 must lie in [0, 1]"),
    ],
)
def test_what_does_not_fit(images: tuple[int, ...], maps: tuple[int, ...], opacity: float, message: str):
    with pytest.raises(ValueError, match=re.escape(message)):
        overlay(jnp.zeros(images), jnp.zeros(maps), opacity=opacity)


def test_a_gallery_has_a_row_for_each_image_and_a_column_for_each_net():
    images = jnp.linspace(0, 1, 24).reshape(2, 2, 2, 3)
    maps = jnp.concatenate([MAPS, 1 - MAPS])
    columns = [Column("one", maps, ["cat 0.90", "$x$ 0.10"]), Column("two", maps, ["cat 0.80", "dog 0.20"])]
    figure = gallery(images, columns, ["cat", "dog"])
    *axes, bar = figure.axes
    assert [axis.get_title() for axis in axes] == ["input", "one", "two", "", "", ""]
    assert [axis.get_xlabel() for axis in axes] == ["cat", "cat 0.90", "cat 0.80", "dog", "$x$ 0.10", "dog 0.20"]
    assert bar.get_ylabel().startswith("class activation")
    np.testing.assert_allclose(axes[0].images[0].get_array(), images[0], atol=1e-7)
    np.testing.assert_allclose(axes[5].images[0].get_array(), overlay(images, maps)[1], atol=1e-7)


def test_a_gallery_refuses_images_that_are_still_normalised():
    with pytest.raises(ValueError, match=r"images are in \[-2.00, 2.00\], but must be in \[0, 1\]"):
        gallery(jnp.linspace(-2, 2, 12).reshape(1, 2, 2, 3), [])
