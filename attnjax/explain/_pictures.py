"""Pictures of class activation maps: overlaid on the images, and side by side for several nets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_INCHES = 1.5
"""Side of an image in a gallery."""


def overlay(images: jax.Array, maps: jax.Array, *, opacity: float = 0.5) -> jax.Array:
    """Overlays maps on images, in colours from blue at 0 over green to red at 1.

    (1 - opacity) image + opacity colour, with red, green, blue = clip(1.5 - |4 map - (3, 2, 1)|, 0, 1).

    Args:
      images: (b, h, w, 1) or (b, h, w, 3), floating in [0, 1] or uint8.
      maps: (b, h, w) in [0, 1], such as `grad_cam(...).map`.
      opacity: opacity of the map, from 0 to 1.

    Returns:
      (b, h, w, 3), float32, in [0, 1].

    Raises:
      ValueError: shapes do not fit, or `opacity` is outside [0, 1].

    Example:
      >>> import jax.numpy as jnp
      >>> from attnjax.explain import overlay
      >>> overlay(jnp.zeros((1, 1, 2, 1)), jnp.array([[[0.0, 1.0]]]), opacity=1.0)[0, 0].tolist()
      [[0.0, 0.0, 0.5], [0.5, 0.0, 0.0]]
    """
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or maps.shape != images.shape[:3]:
        raise ValueError(
            f"images {list(images.shape)} and maps {list(maps.shape)} must be (b, h, w, 1 or 3), (b, h, w)"
        )
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity={opacity} must lie in [0, 1]")
    scale = 255.0 if images.dtype == jnp.uint8 else 1.0
    pixels = jnp.clip(images.astype(jnp.float32) / scale, 0.0, 1.0)
    return (1 - opacity) * pixels + opacity * _colours(maps.astype(jnp.float32))


def _colours(maps: jax.Array) -> jax.Array:
    distances = jnp.stack([jnp.abs(4 * maps - peak) for peak in (3.0, 2.0, 1.0)], axis=-1)
    return jnp.clip(1.5 - distances, 0.0, 1.0)


class Column(NamedTuple):
    """One column of a gallery, the maps of one net.

    Attributes:
      title: heading of the column, such as the net's name; long lines are shortened, in captions too.
      maps: (b, h, w) in [0, 1].
      captions: a line below each map, such as the class and its probability.

    Example: see `gallery`.
    """

    title: str
    maps: Any
    captions: Sequence[str]


def _shortened(text: str, most: int) -> str:
    """Shortens a text to at most `most` characters by cutting out its middle."""
    keep = most // 2
    return text if len(text) <= most else f"{text[: most - keep - 1]}…{text[-keep:]}"


def gallery(images: jax.Array, columns: Sequence[Column], captions: Sequence[str] = ()) -> Any:
    """Draws images beside the maps of several nets, like the figures in CBAM's paper.

    Args:
      images: (b, h, w, 1) or (b, h, w, 3), floating in [0, 1] or uint8; one row for each.
      columns: one column for each net.
      captions: a line below each input image, such as its class.

    Returns:
      A `matplotlib.figure.Figure`; `figure.savefig("gallery.png")` writes it.

    Raises:
      ImportError: matplotlib is not installed.
      ValueError: floating images are outside [0, 1], maps do not fit the images, or captions are missing.

    Example:
      >>> import jax.numpy as jnp
      >>> from attnjax.explain import Column, gallery
      >>> columns = [Column("cbam_resnet50", jnp.ones((2, 8, 8)), ["cat 0.93", "dog 0.71"])]
      >>> len(gallery(jnp.ones((2, 8, 8, 3)), columns, ["cat", "dog"]).axes)  # the last one is the colour bar
      5

    References:
      Woo et al., "CBAM: Convolutional Block Attention Module", ECCV 2018, figure 4.
    """
    try:
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import ListedColormap
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("gallery draws with matplotlib: pip install matplotlib") from error

    lowest, highest = float(images.min()), float(images.max())
    if jnp.issubdtype(images.dtype, jnp.floating) and not -0.01 <= lowest <= highest <= 1.01:
        raise ValueError(
            f"images are in [{lowest:.2f}, {highest:.2f}], but must be in [0, 1]: undo their normalisation"
        )
    pictures = [np.asarray(overlay(images, jnp.zeros(images.shape[:3]), opacity=0.0))]
    pictures += [np.asarray(overlay(images, jnp.asarray(column.maps))) for column in columns]
    texts = [captions or [""] * len(images), *(column.captions for column in columns)]
    for title, given in zip(("input", *(column.title for column in columns)), texts, strict=True):
        if len(given) != len(images):
            raise ValueError(f"{title!r} has {len(given)} captions for {len(images)} images")
    rows, width = len(images), len(pictures)
    figure = Figure((width * _INCHES + 0.8, rows * (_INCHES + 0.25) + 0.3), layout="constrained")
    axes = figure.subplots(rows, width, squeeze=False)
    for column, title in enumerate(("input", *(column.title for column in columns))):
        lines = (_shortened(line, 22) for line in title.split("\n"))
        axes[0, column].set_title("\n".join(lines), fontsize=9, parse_math=False)
        for row in range(rows):
            axis = axes[row, column]
            axis.imshow(pictures[column][row], interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.set_xlabel(_shortened(texts[column][row], 25), fontsize=8, parse_math=False)
    if columns:
        colours = ListedColormap(np.asarray(_colours(jnp.linspace(0, 1, 256))))
        bar = figure.colorbar(ScalarMappable(cmap=colours), ax=axes, shrink=min(1.0, 4 / rows), aspect=30)
        bar.set_label("class activation relative to its maximum", fontsize=8)
    return figure
