"""What the loop, checkpoints, reports and ablations know of the work that a run does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

import flax.linen as nn
import jax
import numpy as np

from attnjax.training import Loss
from train.config import Config
from train.data import Batch, Dataset
from train.tasks.run import Run


class Objective(NamedTuple):
    """What a net is trained and evaluated by.

    Attributes:
      loss: of training.
      evaluation_loss: whose sums the figures on the test images are made of.
      preprocess: makes of the images that a batch holds what the net takes.
      mix: changes each batch of training at random; None does not.
    """

    loss: Loss
    evaluation_loss: Loss
    preprocess: Callable[[jax.Array], jax.Array] | None = None
    mix: Callable[[jax.Array, Any], Any] | None = None


class Images(Protocol):
    """The images of a split, as a task reads them.

    Attributes:
      unreadable: names of the files that could not be decoded so far.
    """

    unreadable: set[str]

    def __len__(self) -> int: ...


class Evaluation(Protocol):
    """Figures over all test images.

    Attributes:
      count: images.
    """

    @property
    def count(self) -> int: ...

    def figures(self) -> dict[str, float]:
        """By name, as they are reported."""
        ...


class Task(Protocol):
    """One kind of work: how a batch is read, the loss, the figures, and what a run of it leaves to see.

    Attributes:
      score: the figure of an evaluation that says which checkpoint is the best: the highest.
      headlines: figures that are printed, by name, and what they are called there.
      outputs: whether an evaluation needs the net's outputs for every image, not only sums.
    """

    score: ClassVar[str]
    headlines: ClassVar[Mapping[str, str]]
    outputs: ClassVar[bool]

    def open(self, config: Config) -> Dataset:
        """Opens the images.

        Raises:
          UserError: they are not there, or not as the settings need them.
        """
        ...

    def define(self, config: Config, dataset: Dataset) -> Run:
        """What defines the run.

        Raises:
          UserError: settings and images do not fit each other.
        """
        ...

    def model(self, run: Run, norm: Mapping[str, Any] | None = None) -> nn.Module:
        """The net; `norm` has arguments of its batch norms."""
        ...

    def objective(self, run: Run, model: nn.Module) -> Objective:
        """What the net is trained and evaluated by."""
        ...

    def abstract_batch(self, run: Run) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and types of a batch of training, of all processes together."""
        ...

    def training_images(self, run: Run, dataset: Dataset) -> Any:
        """The images to train on, an `Images`; the seed of the run decides what is random about them."""
        ...

    def test_images(self, run: Run, dataset: Dataset) -> Any:
        """The images to test on, an `Images`."""
        ...

    def training_batches(self, run: Run, images: Any, process: tuple[int, int]) -> Any:
        """Endless batches, an iterator whose `set_state({"next_index": step})` goes on from a step.

        Args:
          run: its seed fixes order and augmentation.
          images: those to train on.
          process: which of how many processes this is: it gets its rows of every batch.
        """
        ...

    def evaluation_batches(self, run: Run, images: Any, process: tuple[int, int]) -> Iterator[Batch]:
        """All images once, in order; the last batch is filled up, and its `mask` says with what."""
        ...

    def figures(self, sums: Mapping[str, Any]) -> dict[str, float]:
        """What is reported of training steps, made of their sums."""
        ...

    def evaluation(self, run: Run, sums: Mapping[str, Any], outputs: Sequence[tuple[Any, Batch]]) -> Any:
        """What is reported of an evaluation, an `Evaluation`.

        Args:
          run: what was evaluated.
          sums: over all images.
          outputs: where the task asks for them, the net's outputs and the batch, in order, without masked examples.
        """
        ...

    def write(self, workdir: str, run: Run, evaluation: Any) -> None:
        """Writes tables and pictures of the last evaluation into the folder of a run."""
        ...


def mean(sums: Mapping[str, Any], name: str) -> float:
    """The mean of a sum over the examples."""
    return float(np.asarray(sums[name])) / int(np.asarray(sums["count"]))
