"""Anchor boxes of feature maps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

RATIOS = (0.5, 1.0, 2.0)
"""Height over width of the anchors of the published detectors."""


def base_anchors(sizes: Sequence[float], ratios: Sequence[float] = RATIOS, *, rounded: bool = False) -> np.ndarray:
    """The anchors of one position, centred at the origin.

    An anchor of size s and ratio r is s / sqrt(r) wide and s sqrt(r) high.

    Args:
      sizes: square roots of the areas, in pixels.
      ratios: height over width.
      rounded: whether coordinates are rounded to integers, halves to even (torchvision), or not (mmdetection).

    Returns:
      float32 (ratios * sizes, 4): the sizes of the first ratio, then those of the next.

    Example:
      >>> from attnjax.detection import base_anchors
      >>> base_anchors([32], [1.0, 4.0]).tolist()
      [[-16.0, -16.0, 16.0, 16.0], [-8.0, -32.0, 8.0, 32.0]]
    """
    roots = np.sqrt(np.asarray(ratios, np.float32))[:, None]
    scales = np.asarray(sizes, np.float32)[None]
    corner = np.stack([(1 / roots * scales).ravel(), (roots * scales).ravel()], axis=-1) / 2
    corner = np.round(corner) if rounded else corner
    return np.concatenate([-corner, corner], axis=-1)


def anchors(
    map_sizes: Sequence[tuple[int, int]],
    strides: Sequence[tuple[float, float]],
    sizes: Sequence[Sequence[float]],
    ratios: Sequence[float] = RATIOS,
    *,
    rounded: bool = False,
) -> np.ndarray:
    """The anchors of all positions of feature maps. That of row i and column j is centred at (j, i) times the stride.

    Args:
      map_sizes: height and width of each map.
      strides: vertical and horizontal stride of each map, in pixels of the image. mmdetection's are powers of two;
        torchvision's are image size // map size.
      sizes: sizes of the anchors of each map, see `base_anchors`.
      ratios, rounded: see `base_anchors`.

    Returns:
      float32 (k, 4): by map, row, column and anchor.

    Raises:
      ValueError: the three sequences differ in length.

    Example:
      >>> from attnjax.detection import anchors
      >>> anchors([(1, 2)], [(16, 16)], [[32]], [1.0]).tolist()
      [[-16.0, -16.0, 16.0, 16.0], [0.0, -16.0, 32.0, 16.0]]

    References:
      Ren et al., "Faster R-CNN", NeurIPS 2015; Lin et al., "Feature Pyramid Networks", CVPR 2017.
    """
    if not len(map_sizes) == len(strides) == len(sizes):
        raise ValueError(f"there are {len(map_sizes)} map_sizes, {len(strides)} strides and {len(sizes)} sizes")
    maps = []
    for (height, width), (down, right), of_map in zip(map_sizes, strides, sizes, strict=True):
        y, x = np.meshgrid(np.arange(height) * np.float32(down), np.arange(width) * np.float32(right), indexing="ij")
        centres = np.stack([x, y, x, y], axis=-1).astype(np.float32)
        maps.append((centres[:, :, None] + base_anchors(of_map, ratios, rounded=rounded)).reshape(-1, 4))
    return np.concatenate(maps)
