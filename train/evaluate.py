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
from train.config.errors import UserError
from train.config.flags import parse, program
from train.hosts.processes import Hosts, connected, gather, is_first
from train.runs.evaluation import Evaluator
from train.runs.provenance import digest
from train.runs.record import load_state, open_dataset_of, read_run
from train.tasks import task_of
from train.tasks.multicrop import Crops, Multicrop, MulticropLoss


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Evaluates a run on its test images."""

    workdir: str
    """Folder of the run."""
    checkpoint: str = "last"
    """`last`, `best` (the highest test score) or a step."""
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
    run, layout = read_run(parsed.workdir), Layout.create()
    task, crops = task_of(run.config), 10 if parsed.crops == "ten" else 1
    multiple = parsed.crops != "center" or bool(parsed.sizes) or bool(parsed.resize)
    if multiple and run.config.model.is_detector:
        raise UserError(f"--crops, --sizes and --resize are for classifiers: {parsed.workdir} holds a detector")
    state = load_state(task, run, parsed.workdir, parsed.checkpoint, layout)
    model, batch_size = task.model(run), layout.round_up(-(-run.config.data.batch_size // crops))
    run = run.with_batches_of(batch_size)
    objective, images = task.objective(run, model), task.test_images(run, open_dataset_of(run, task))
    if multiple:
        multicrop = Multicrop.of(images, parsed.crops, parsed.sizes, parsed.resize)
        multicrop.check(model, state.eval_variables, images)
        step = make_eval_step(model, MulticropLoss(objective.preprocess))
        evaluator = Evaluator(task, images, step, partial(multicrop.batches, images), layout)
    else:
        evaluator = Evaluator.create(task, run, model, objective, images, layout)
    silent = None if is_first() else True  # None: unless standard error is a terminal
    with tqdm(total=-(-len(images) // batch_size), unit="batch", leave=False, disable=silent) as bar:
        result = evaluator(run, state.eval_variables, after_batch=bar.update)
    unreadable = set().union(*gather("unreadable images", sorted(images.unreadable)))
    if not is_first():
        return
    first, *others = task.lines(result)
    print(f"step {int(state.step)}: {first}")
    if unreadable:
        print(f"{len(unreadable)} unreadable images skipped", file=sys.stderr)
    for line in others:
        print(line)
    if parsed.digest:
        print(digest(state.variables))


if __name__ == "__main__":
    program(main)
