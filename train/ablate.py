"""python -m train.ablate FILE [--seeds 5] [--workdir DIR] [--together auto|yes|no] [--only VARIANT ...] ..."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Sequence
from typing import Annotated

import tyro

from train.ablation.seeds import Together, check_seeds, is_done, train_seeds, trains_together
from train.ablation.table import Row, about, write_table
from train.config import Config, DataConfig, flatten
from train.config.ablation import Ablation, folder_name
from train.config.errors import NotFiniteError, UserError, nearest
from train.config.flags import config_name, parse, program, read_from_file, with_duration_of
from train.data import Dataset
from train.runs.initial_weights import start_from
from train.runs.preemption import Preempted, preemption
from train.runs.record import read_run
from train.runs.session import locked
from train.runs.setup import Program
from train.tasks import task_of
from train.tasks.recipe import make_layout

_PROGRAM = "python -m train.ablate FILE"


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Trains the variants of an ablation with several seeds each, and writes table.md, table.csv and plot.png.

    FILE is a Python file that defines `ablation`, by its path or, below configs/, by its name alone. The file is
    executed: use only files you trust. Each seed of each variant is an ordinary run in WORKDIR/VARIANT/seed_N. The same
    command again resumes the runs.
    """

    config: Annotated[Config, tyro.conf.arg(name="")]
    workdir: str
    """Folder of the table and the runs; created if missing."""
    seeds: int = 5
    """Number of seeds, starting at the config's."""
    together: Together = "auto"
    """Whether the seeds of a variant train in one vmapped step (yes) or one after the other (no); auto is yes on
    accelerators."""
    only: Annotated[tuple[str, ...], tyro.conf.arg(metavar="VARIANT ...")] = ()
    """Variants to train; default all. The table includes earlier results of the others."""


def main(arguments: Sequence[str]) -> None:
    """Reads the flags and trains."""
    if {"-h", "--help"} & set(arguments[:1]):
        parse(Arguments, arguments, default=Arguments(Config(total_epochs=1), "runs/FILE"), prog=_PROGRAM)
    if not arguments or arguments[0].startswith("-"):
        raise UserError("the first argument must be an ablation, such as cbam_arrangement")
    path, *flags = arguments
    ablation = read_from_file(path, "ablation", Ablation)
    name = config_name(path)
    default = Arguments(with_duration_of(ablation.base, flags), os.path.join("runs", name))
    parsed = parse(Arguments, flags, default=default, prog=_PROGRAM)
    if parsed.seeds < 1:
        raise UserError(f"--seeds={parsed.seeds} must be at least 1")
    for label in parsed.only:
        if label not in ablation.variants:
            raise UserError(f"--only: there is no variant {label!r}{nearest(label, ablation.variants)}")
    before, after = flatten(default.config), flatten(parsed.config)
    changed = {setting for setting in after if after[setting] != before[setting]}
    for label, settings in ablation.variants.items():
        for setting in sorted(changed & set(settings)):
            raise UserError(f"--{setting} is set by variant {label!r}: change it in {path}")
    with preemption() as preempted, locked(parsed.workdir):
        _Study(name, dataclasses.replace(ablation, base=parsed.config), parsed).train(preempted)


class _Study:
    """The runs of an ablation, and which of them have finished."""

    def __init__(self, name: str, ablation: Ablation, arguments: Arguments) -> None:
        self._name, self._ablation, self._arguments = name, ablation, arguments
        self._task = task_of(ablation.base)
        first = ablation.base.seed
        self._seeds = range(first, first + arguments.seeds)
        self._done: dict[str, set[int]] = {
            label: {seed for seed in self._seeds if self._is_done(label, seed)} for label in ablation.variants
        }

    def _folder(self, label: str, seed: int) -> str:
        return os.path.join(self._arguments.workdir, folder_name(label), f"seed_{seed}")

    def _is_done(self, label: str, seed: int) -> bool:
        folder = self._folder(label, seed)
        if not os.path.exists(os.path.join(folder, "config.json")):
            return False
        config = dataclasses.replace(self._ablation.config(label), seed=seed)
        return is_done(dataclasses.replace(read_run(folder), config=config), folder)

    def train(self, preempted: Preempted) -> None:
        """Trains the remaining runs, and writes the table after every seed."""
        together, why = trains_together(self._arguments.together)
        chosen = self._arguments.only or tuple(self._ablation.variants)
        runs = [(label, seed) for label in chosen for seed in self._seeds if seed not in self._done[label]]
        finished = sum(map(len, self._done.values()))
        print(
            f"{len(runs)} runs to train, {finished} finished; "
            f"seeds train {'together' if together else 'sequentially'}: {why}",
            flush=True,
        )
        self._check(dict.fromkeys(label for label, _ in runs))
        numbers = {run: number for number, run in enumerate(runs, 1)}
        diverged = []
        for label in chosen:
            remaining = [seed for variant, seed in runs if variant == label]
            folders = {seed: self._folder(label, seed) for seed in remaining}
            labels = {seed: f"[{numbers[label, seed]}/{len(runs)}] {label}, seed {seed}" for seed in remaining}
            try:
                config = self._ablation.config(label)
                arguments = (config, self._task, folders, together, preempted, labels)
                for seed in train_seeds(*arguments) if remaining else ():
                    self._done[label].add(seed)
                    self._write()
            except NotFiniteError as error:
                diverged.append(str(error))
            if preempted():
                return
        if any(self._done.values()):
            print(*self._write(), "", f"table and plot are in {self._arguments.workdir}", sep="\n")
        if diverged:
            raise UserError("; ".join(diverged))

    def _check(self, labels: Iterable[str]) -> None:
        """Validates every variant before the first is trained."""
        opened: dict[tuple[DataConfig, str | None], Dataset] = {}
        for label in labels:
            config, task = self._ablation.config(label), self._task
            data = (config.data, config.model.name if config.model.is_detector else None)
            try:
                if data not in opened:
                    opened[data] = task.open(config)
                check_seeds(config)
                run = task.define(config, opened[data])
                program = Program.create(task, run, make_layout(config))
                if config.model.weights is not None:
                    start_from(config.model.weights, program.state.variables)
            except UserError as error:
                raise UserError(f"variant {label!r}: {error}") from error

    def _write(self) -> list[str]:
        """Writes the table and returns its lines."""
        ablation, rows = self._ablation, []
        for label, done in self._done.items():
            if done:
                folders = [self._folder(label, seed) for seed in sorted(done)]
                rows.append(Row.read(label, self._task, folders, ablation.published.get(label, "")))
        first, last = self._seeds[0], self._seeds[-1]
        seeds = f"seeds {first} to {last}" if last > first else f"seed {first}"
        return write_table(self._arguments.workdir, self._task, rows, about(self._name, rows, seeds), ablation.source)


if __name__ == "__main__":
    program(main)
