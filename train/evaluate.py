"""python -m train.evaluate --workdir RUN [--checkpoint best|last|STEP] [--crops ten] [--sizes S ...] [--digest]"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from functools import partial
from typing import Annotated

import tyro
from tqdm import tqdm

from attnjax.training import Layout, make_eval_step
from train.config.flags import parse, program
from train.hosts.processes import Hosts, connected, gather, is_first
from train.runs.evaluation import Evaluator
from train.runs.provenance import digest
from train.runs.record import load_state, open_dataset_of, read_run
from train.tasks.classification import CLASSIFICATION
from train.tasks.multicrop import Crops, Multicrop, MulticropLoss


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Evaluates a run on its test images."""

    workdir: str
    """Folder of the run."""
    checkpoint: str = "last"
    """`last`, `best` (the highest test accuracy) or a step."""
    crops: Crops = "center"
    """Crops of each image: the centre, or the corners, the centre and their mirror images (ten), over which the
    probabilities are averaged."""
    sizes: Annotated[tuple[int, ...], tyro.conf.arg(metavar="PIXELS ...")] = ()
    """Sides of the crops, over which the probabilities are averaged; default the run's."""
    resize: Annotated[tuple[int, ...], tyro.conf.arg(metavar="PIXELS ...")] = ()
    """Shorter side of the image before the crop, one for each size or one for all; default keeps the run's ratio."""
    digest: tyro.conf.FlagCreatePairsOff[bool] = False
    """Also print a SHA-256 over parameters and batch statistics."""
    hosts: Annotated[Hosts, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Hosts)


def main(arguments: Sequence[str]) -> None:
    """Reads the flags and prints the metrics."""
    parsed = parse(Arguments, arguments, prog="python -m train.evaluate", switches=True)
    with connected(parsed.hosts):
        _evaluate(parsed)


def _evaluate(parsed: Arguments) -> None:
    task, run, layout = CLASSIFICATION, read_run(parsed.workdir), Layout.create()
    state = load_state(task, run, parsed.workdir, parsed.checkpoint, layout)
    model, reader = task.model(run), task.test_images(run, open_dataset_of(run, task))
    objective = task.objective(run, model)
    crops = 10 if parsed.crops == "ten" else 1
    batch_size = layout.round_up(-(-reader.config.batch_size // crops))
    reader = dataclasses.replace(reader, config=dataclasses.replace(reader.config, batch_size=batch_size))
    if parsed.crops == "center" and not parsed.sizes and not parsed.resize:
        evaluator = Evaluator.create(task, run, model, objective, reader, layout)
    else:
        multicrop = Multicrop.of(reader, parsed.crops, parsed.sizes, parsed.resize)
        multicrop.check(model, state.eval_variables, reader)
        step = make_eval_step(model, MulticropLoss(objective.preprocess))
        evaluator = Evaluator(task, reader, step, partial(multicrop.batches, reader), layout)
    silent = None if is_first() else True  # None: unless standard error is a terminal
    with tqdm(total=-(-len(reader) // batch_size), unit="batch", leave=False, disable=silent) as bar:
        result = evaluator(run, state.eval_variables, after_batch=bar.update)
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
