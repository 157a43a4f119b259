"""The interface of a data set."""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol

import numpy as np


class Split(Protocol):
    """Labelled images with random access."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        """Returns an image, uint8 (h, w, c), and its label."""
        ...

    def name(self, index: int) -> str:
        """Names an image in messages."""
        ...


@dataclasses.dataclass(frozen=True)
class Dataset:
    """An opened data set.

    Attributes:
      train: training images: a `Split`, or `ObjectImages` for detectors.
      test: test images, likewise.
      class_names: names of the classes, by label.
      origin: which copy this is, for provenance: name, version and the module that prepared it, or the folder.
    """

    train: Any
    test: Any
    class_names: tuple[str, ...]
    origin: str
