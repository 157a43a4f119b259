"""python -m train.evaluate --workdir RUN [--checkpoint best|last|STEP] [--crops ten] [--sizes S ...] [--digest]"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated

from train.config.flags import parse, program  # first: it checks the extra

# isort: split
import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import linen as nn
from tqdm import tqdm

from attnjax.models import GGAMNet
from train.config import Config
from train.config.errors import UserError
from train.data import Reader, evaluation_batches, open_dataset
from train.hosts.processes import Hosts, connected, gather, is_first
from train.layout import Layout
from train.metrics import GuidedMetrics, Metrics
from train.runs.record import load_state, read_run
from train.state import Variables, digest
from train.step import eval_step
from train.tasks.multicrop import Crops, Views, views_step


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Figures over all test images.

    Attributes:
      loss: mean cross-entropy, without smoothing.
      accuracy: share of right answers.
      top5_accuracy: share of images whose class is among the five most probable ones.
      count: images.
      confusion: int (true class, answer).
      kl: mean of GGAM's guidance loss, without its factor; None for nets without GGAM's attention, and over views.
      correlation: mean over the images of the correlation of S and W over the channels; None likewise.
    """

    loss: float
    accuracy: float
    top5_accuracy: float
    count: int
    confusion: np.ndarray
    kl: float | None = None
    correlation: float | None = None

    def figures(self) -> dict[str, float]:
        """What is to be told, by name."""
        told = {name: getattr(self, name) for name in ("loss", "accuracy", "top5_accuracy", "kl", "correlation")}
        return {name: value for name, value in told.items() if value is not None}


class Evaluator:
    """Evaluates variables on a split; compiles once.

    Args:
      model: the net.
      config: the run's settings.
      reader: the images. Its batch size is that of the evaluation, and must be divisible among the devices.
      layout: where batches and variables lie.
      num_classes: number of classes.
      views: what to cut out of each image; None takes the one view that the settings give.
    """

    def __init__(
        self,
        model: nn.Module,
        config: Config,
        reader: Reader,
        layout: Layout,
        num_classes: int,
        views: Views | None = None,
    ) -> None:
        self._reader, self._layout, self._num_classes = reader, layout, num_classes
        guided = views is None and isinstance(model, GGAMNet) and model.attention is not None
        self._metrics = GuidedMetrics if guided else Metrics
        self._batches = evaluation_batches if views is None else views.batches
        step = partial(eval_step if views is None else views_step, model, config)
        self._step = jax.jit(step, out_shardings=layout.replicated, donate_argnums=(1, 2))

    def __call__(self, variables: Variables, before_batch: Callable[[], object] = lambda: None) -> Evaluation:
        """Every image counts once, on any number of devices.

        Args:
          variables: parameters and batch statistics.
          before_batch: is called before each batch, and ends the evaluation by an exception.
        """
        matrix = jnp.zeros((self._num_classes, self._num_classes), jnp.int32)
        sums = self._layout.put((self._metrics.zero(), matrix))
        for batch in self._batches(self._reader, (jax.process_index(), jax.process_count())):
            before_batch()
            sums = self._step(variables, *sums, self._layout.put_batch(batch))
        metrics, confusion = jax.device_get(sums)
        count = int(metrics.count)
        told = ("kl", "correlation") if isinstance(metrics, GuidedMetrics) else ()
        return Evaluation(
            loss=float(metrics.loss) / count,
            accuracy=int(metrics.correct) / count,
            top5_accuracy=int(metrics.top5) / count,
            count=count,
            confusion=confusion,
            **{name: float(getattr(metrics, name)) / count for name in told},
        )


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Evaluates a run on its test images."""

    workdir: str
    """Folder of the run."""
    checkpoint: str = "last"
    """`last`, `best` (the highest test accuracy) or a step."""
    crops: Crops = "center"
    """What is cut out of each image: its centre; or its corners and centre and the mirror images of these, over which
    the probabilities are averaged."""
    sizes: Annotated[tuple[int, ...], tyro.conf.arg(metavar="PIXELS ...")] = ()
    """Sides of the crops; with several, the probabilities are averaged over all of them. None is the run's."""
    resize: Annotated[tuple[int, ...], tyro.conf.arg(metavar="PIXELS ...")] = ()
    """Shorter side of the image before the crop, one for each size or one for all. None keeps the run's proportion."""
    digest: tyro.conf.FlagCreatePairsOff[bool] = False
    """Also print a SHA-256 over parameters and batch statistics."""
    hosts: Annotated[Hosts, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Hosts)


def main(arguments: Sequence[str]) -> None:
    """Reads the flags and prints the figures."""
    parsed = parse(Arguments, arguments, prog="python -m train.evaluate", switches=True)
    with connected(parsed.hosts):
        _evaluate(parsed)


def _evaluate(parsed: Arguments) -> None:
    run = read_run(parsed.workdir)
    layout = Layout.of_all_devices()
    state = load_state(run, parsed.workdir, parsed.checkpoint, layout)
    dataset = open_dataset(run.config.data)
    if dataset.class_names != run.class_names:
        raise UserError(f"{run.config.data.source} has classes {dataset.class_names}, the run has {run.class_names}")
    reader = Reader(dataset.test, run.config.data, run.image_shape)
    views = None
    if parsed.crops != "center" or parsed.sizes or parsed.resize:
        views = Views.of(reader, parsed.crops, parsed.sizes, parsed.resize)
        views.check(run.model(), state.evaluated, reader)
    batch_size = layout.round_up(-(-reader.config.batch_size // (10 if parsed.crops == "ten" else 1)))
    reader = dataclasses.replace(reader, config=dataclasses.replace(reader.config, batch_size=batch_size))
    evaluator = Evaluator(run.model(), run.config, reader, layout, len(run.class_names), views)
    silent = None if is_first() else True  # None: unless standard error is a terminal
    with tqdm(total=-(-len(reader) // batch_size), unit="batch", leave=False, disable=silent) as bar:
        result = evaluator(state.evaluated, bar.update)
    unreadable = set().union(*gather("unreadable images", sorted(reader.unreadable)))
    if not is_first():
        return
    print(f"step {int(state.step)}: test_loss={result.loss:.4f} on {result.count} images")
    if result.kl is not None:
        print(f"test_kl={result.kl:.3g}, test_correlation={result.correlation:.4f}")
    if unreadable:
        print(f"{len(unreadable)} unreadable images skipped", file=sys.stderr)
    if len(run.class_names) > 5:
        print(f"test_top5_accuracy={result.top5_accuracy:.4f}")
    print(f"test_accuracy={result.accuracy:.4f}")
    if parsed.digest:
        print(digest(state.variables))


if __name__ == "__main__":
    program(main)
