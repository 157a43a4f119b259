"""python -m train.evaluate --workdir RUN [--checkpoint best|last|STEP] [--digest]"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from functools import partial

from train.cli import parse, program  # first: it checks the extra

# isort: split
import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import linen as nn

from train.checkpoint import digest
from train.config import Config
from train.data import Reader, evaluation_batches, open_dataset
from train.errors import UserError
from train.metrics import Metrics
from train.parallel import Layout
from train.run import load_state, read_run
from train.state import Variables
from train.step import eval_step


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Figures over all test images.

    Attributes:
      loss: mean cross-entropy, without smoothing.
      accuracy: share of right answers.
      count: images.
      confusion: int (true class, answer).
    """

    loss: float
    accuracy: float
    count: int
    confusion: np.ndarray


class Evaluator:
    """Evaluates variables on a split; compiles once."""

    def __init__(self, model: nn.Module, config: Config, reader: Reader, layout: Layout, num_classes: int) -> None:
        self._reader, self._layout, self._num_classes = reader, layout, num_classes
        same = layout.replicated
        self._step = jax.jit(
            partial(eval_step, model, config),
            in_shardings=(same, same, same, layout.split),
            out_shardings=same,
            donate_argnums=(1, 2),
        )

    def __call__(self, variables: Variables) -> Evaluation:
        """Every image counts once, on any number of devices."""
        matrix = jnp.zeros((self._num_classes, self._num_classes), jnp.int32)
        sums = self._layout.put((Metrics.zero(), matrix))
        for batch in evaluation_batches(self._reader):
            sums = self._step(variables, *sums, self._layout.put_batch(batch))
        metrics, confusion = jax.device_get(sums)
        count = int(metrics.count)
        return Evaluation(float(metrics.loss) / count, int(metrics.correct) / count, count, confusion)


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Evaluates a run on its test images."""

    workdir: str
    """Folder of the run."""
    checkpoint: str = "last"
    """`last`, `best` (the highest test accuracy) or a step."""
    digest: tyro.conf.FlagCreatePairsOff[bool] = False
    """Also print a SHA-256 over parameters and batch statistics."""


def main(arguments: Sequence[str]) -> None:
    """Reads the flags and prints the figures."""
    parsed = parse(Arguments, arguments, prog="python -m train.evaluate", switches=True)
    run = read_run(parsed.workdir)
    layout = Layout.of_dividing_devices(run.config.data.batch_size)
    state = load_state(run, parsed.workdir, parsed.checkpoint, layout)
    dataset = open_dataset(run.config.data)
    if dataset.class_names != run.class_names:
        raise UserError(f"{run.config.data.source} has classes {dataset.class_names}, the run has {run.class_names}")
    reader = Reader(dataset.test, run.config.data, run.image_shape)
    evaluator = Evaluator(run.model(), run.config, reader, layout, len(run.class_names))
    result = evaluator(state.evaluated)
    print(f"step {int(state.step)}: test_loss={result.loss:.4f} on {result.count} images")
    if reader.unreadable:
        print(f"{len(reader.unreadable)} unreadable images skipped", file=sys.stderr)
    print(f"test_accuracy={result.accuracy:.4f}")
    if parsed.digest:
        print(digest(state.variables))


if __name__ == "__main__":
    program(main)
