"""The interface between a task and the loop, checkpoints, reports and ablations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

import flax.linen as nn
import jax
import numpy as np

from attnjax.training import Loss
from train.config import Config
from train.data import Batch, Dataset
from train.tasks.recipe import Run


class Objective(NamedTuple):
    """Losses and preprocessing of a net.

    Attributes:
      loss: training loss.
      evaluation_loss: loss whose sums give the metrics on the test images.
      preprocess: turns the images of a batch into the net's input.
      mix: random augmentation of each training batch, such as `Mixup`; None for none.
      frozen: returns which parameters are not trained, see `attnjax.training.sgd`; None trains all.
    """

    loss: Loss
    evaluation_loss: Loss
    preprocess: Callable[[jax.Array], jax.Array]
    mix: Callable[[jax.Array, Any], Any] | None = None
    frozen: Callable[[Any], Any] | None = None


class Column(NamedTuple):
    """A metric as tables and plots show it.

    Attributes:
      name: its name in CSV files.
      figure: the metric.
      title: its title, with the unit.
      decimals: number of decimals.
      convert: from the metric to what is shown.
    """

    name: str
    figure: str
    title: str
    decimals: int
    convert: Callable[[float], float] = float


class Images(Protocol):
    """The images of a split, as a task reads them.

    Attributes:
      unreadable: names of the files that could not be decoded so far.
    """

    unreadable: set[str]

    def __len__(self) -> int: ...


class Evaluation(Protocol):
    """Metrics over all test images.

    Attributes:
      count: number of images.
    """

    @property
    def count(self) -> int: ...

    def figures(self) -> dict[str, float]:
        """The metrics by name, as reported; `loss` and the task's score are plotted."""
        ...


class Task(Protocol):
    """What is trained: how batches are read, the loss, the metrics, and the files of a finished run.

    Attributes:
      score: the metric by which checkpoints are ranked; higher is better.
      headlines: labels of the metrics to print, by metric name.
      columns: the metrics in tables; the first shows the score, and is plotted.
      outputs: arrays of the batch that an evaluation needs for every image, together with the net's outputs, besides
        the sums; None if it needs neither.
    """

    score: ClassVar[str]
    headlines: ClassVar[Mapping[str, str]]
    columns: ClassVar[Sequence[Column]]
    outputs: ClassVar[Sequence[str] | None]

    def open(self, config: Config) -> Dataset:
        """Opens the data set.

        Raises:
          UserError: it is missing or does not fit the settings.
        """
        ...

    def define(self, config: Config, dataset: Dataset) -> Run:
        """Returns the definition of the run.

        Raises:
          UserError: settings and images do not fit.
        """
        ...

    def image_shape(self, config: Config) -> tuple[int, int, int]:
        """Height, width and channels of the net's input, from the settings alone.

        Raises:
          UserError: they depend on the data.
        """
        ...

    def model(self, run: Run, norm: Mapping[str, Any] | None = None) -> nn.Module:
        """Builds the net; `norm` holds arguments for its batch norms."""
        ...

    def objective(self, run: Run, model: nn.Module) -> Objective:
        """Returns losses and preprocessing of the net."""
        ...

    def abstract_batch(self, run: Run) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and dtypes of a training batch over all processes."""
        ...

    def training_images(self, run: Run, dataset: Dataset) -> Any:
        """The training images, an `Images`; anything random about them depends on the run's seed."""
        ...

    def test_images(self, run: Run, dataset: Dataset) -> Any:
        """The test images, an `Images`."""
        ...

    def training_batches(self, run: Run, images: Any, process: tuple[int, int]) -> Any:
        """An endless iterator over batches; `set_state({"next_index": step})` moves it to a step.

        Args:
          run: its seed fixes order and augmentation.
          images: the training images.
          process: index of this process and number of processes; each gets its rows of every batch.
        """
        ...

    def evaluation_batches(self, run: Run, images: Any, process: tuple[int, int]) -> Iterator[Batch]:
        """All images once, in order; the last batch is padded, and `mask` is False for padding."""
        ...

    def figures(self, sums: Mapping[str, Any]) -> dict[str, float]:
        """Computes the metrics of training steps from their sums; they include `loss`, which is plotted."""
        ...

    def evaluation(self, run: Run, images: Any, sums: Mapping[str, Any], outputs: Sequence[tuple[Any, Batch]]) -> Any:
        """Computes the metrics of an evaluation, an `Evaluation`.

        Args:
          run: the run.
          images: the test images.
          sums: sums over all images.
          outputs: if the task asks for them, the net's outputs and arrays of the batch, in order and without masked
            examples.
        """
        ...

    def lines(self, evaluation: Any) -> list[str]:
        """The metrics of an evaluation as `python -m train.evaluate` prints them, the score last."""
        ...

    def write(self, workdir: str, run: Run, evaluation: Any) -> None:
        """Writes tables and plots of the final evaluation to the folder of the run."""
        ...


def mean(sums: Mapping[str, Any], name: str) -> float:
    """The sum `name` divided by the number of examples; 0 where all were masked."""
    return float(np.asarray(sums[name])) / max(int(np.asarray(sums["count"])), 1)
