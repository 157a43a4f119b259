"""Scanned digits at random positions of larger, cluttered canvases: a small task of localisation and classification."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from PIL import Image

from train.data.dataset import Dataset, Split

_SIDE = 64
"""Pixels of a canvas."""
_COPIES = 4
"""Canvases per digit."""
_DIGIT = (18, 24)
"""Smallest and largest side of a digit, which was scanned with 8x8 pixels."""
_PIECE = (6, 10)
"""Smallest and largest side of a fragment."""
_PIECES = 8
"""Fragments per canvas."""
_NOISE = 12.0
"""Standard deviation of the noise, of 255."""


@dataclasses.dataclass(frozen=True)
class _Canvases:
    images: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return self.images[index], int(self.labels[index])

    def name(self, index: int) -> str:
        return f"canvas {index}"


def on_canvases(digits: Dataset) -> Dataset:
    """Pastes each digit on 4 canvases of 64x64 pixels, among fragments of other digits of the same split.

    Modelled on the cluttered MNIST of Mnih et al., Recurrent Models of Visual Attention, NeurIPS 2014, with a grey
    gradient and noise added. The seed is fixed: the canvases are always the same.
    """
    train, test = (_canvases(split, seed) for seed, split in enumerate((digits.train, digits.test)))
    return Dataset(train, test, digits.class_names, f"{digits.origin} on canvases")


def canvas_boxes(split: Split) -> np.ndarray | None:
    """Bounding boxes of the digits of a split of canvases, integers (n, 4): y0, x0, y1, x1, the last two exclusive.

    None for other splits.
    """
    return split.boxes if isinstance(split, _Canvases) else None


def _canvases(digits: Split, seed: int) -> _Canvases:
    rng = np.random.default_rng(seed)
    scans, labels = zip(*(digits[index] for index in range(len(digits))), strict=True)
    scans = [scan[..., 0] for scan in scans]
    pieces = fragments(scans, rng)
    drawn = [draw_canvas([scan], rng.random((1, 2)), pieces, rng) for scan in scans for _ in range(_COPIES)]
    images, boxes = (np.stack(part) for part in zip(*drawn, strict=True))
    return _Canvases(images, np.repeat(labels, _COPIES), boxes[:, 0])


def fragments(scans: Sequence[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
    """Two squares cut out of each digit, which has become as large and bright as on a canvas.

    Args:
      scans: of digits, uint8 (8, 8).
      rng: decides sizes and positions.
    """
    return [_cut(_enlarged(scan, rng), rng) for scan in scans for _ in range(2)]


def draw_canvas(
    scans: Sequence[np.ndarray], positions: np.ndarray, pieces: Sequence[np.ndarray], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draws digits among fragments on a canvas.

    Args:
      scans: of the k digits, uint8 (8, 8).
      positions: of the digits, (k, 2): y and x in [0, 1), from the upper left to the lower right of what is possible.
      pieces: see `fragments`; 8 of them are drawn.
      rng: decides all the rest.

    Returns:
      The canvas, uint8 (64, 64, 1), and the boxes of the digits, integers (k, 4), see `canvas_boxes`.
    """
    canvas = np.zeros((_SIDE, _SIDE), np.float32)
    scattered = rng.random((_PIECES, 2))
    for piece, position in zip(rng.integers(0, len(pieces), _PIECES), scattered, strict=True):
        _paste(canvas, pieces[piece], position)
    boxes = np.stack(
        [_paste_digit(canvas, _enlarged(scan, rng), at) for scan, at in zip(scans, positions, strict=True)]
    )
    down, across = rng.uniform(-16, 16, (2, 1)) * np.linspace(-1, 1, _SIDE)
    ground = (rng.uniform(32, 64) + down[:, None] + across).astype(np.float32)
    lit = ground + (1 - ground / 255) * canvas + _NOISE * rng.standard_normal(canvas.shape, np.float32)
    return np.clip(lit, 0, 255).astype(np.uint8)[..., None], boxes


def _paste_digit(canvas: np.ndarray, digit: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Draws a digit, and returns its box."""
    y, x = _paste(canvas, digit, position)
    rows, columns = (np.flatnonzero(digit.max(axis) > digit.max() / 8) for axis in (1, 0))
    return np.array([y + rows[0], x + columns[0], y + rows[-1] + 1, x + columns[-1] + 1])


def _enlarged(scan: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A digit, enlarged and scaled in brightness."""
    side = int(rng.integers(*_DIGIT, endpoint=True))
    image = Image.fromarray(scan).resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(image, np.float32) * rng.uniform(0.5, 1.0)


def _cut(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A square of an image, of random side and position."""
    side = rng.integers(*_PIECE, endpoint=True)
    y, x = rng.integers(0, len(image) - side, 2, endpoint=True)
    return image[y : y + side, x : x + side]


def _paste(canvas: np.ndarray, image: np.ndarray, position: np.ndarray) -> tuple[int, int]:
    """Draws an image on a canvas, at a position in [0, 1)^2, and returns its corner; the maximum of both shows."""
    y, x = (int(share * (len(canvas) - len(image) + 1)) for share in position)
    part = canvas[y : y + len(image), x : x + len(image)]
    np.maximum(part, image, out=part)
    return y, x
