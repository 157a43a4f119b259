"""What a data set is to the rest of the program."""

from __future__ import annotations

import dataclasses
from typing import Protocol

import numpy as np


class Split(Protocol):
    """Labelled images with random access."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        """Returns an image, uint8 (h, w, c), and its label."""
        ...

    def name(self, index: int) -> str:
        """Says which image that is, for messages."""
        ...


@dataclasses.dataclass(frozen=True)
class Dataset:
    """What a source gives.

    Attributes:
      train: the images to train on.
      test: those to test on.
      class_names: names of the classes, by label.
      origin: which copy this is, for the record: name, version, and what has prepared it; or the folder.
    """

    train: Split
    test: Split
    class_names: tuple[str, ...]
    origin: str
