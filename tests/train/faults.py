"""Runs that are killed again and again at random moments must end as the unbroken one.

python -m tests.train.faults [--kills 60] [--seed 0]
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tests.train.support import SMALL, in_flags, lines, outcome, run, training

SECONDS_TO_START = 8.0


class Engine(NamedTuple):
    """How a run is spread: its virtual devices, and the settings that say so."""

    devices: int
    settings: Mapping[str, object]


ENGINES = {
    "jit": Engine(1, {}),
    "jit, sharded": Engine(2, {"parallel.shard_parameters": 2}),
    "pmap": Engine(2, {"parallel.engine": "pmap"}),
}


class Kills(NamedTuple):
    """How many processes of how many runs were killed, and how many of them in the middle of a save or of the start."""

    runs: int = 0
    all: int = 0
    in_save: int = 0
    at_start: int = 0

    def and_(self, other: Kills) -> Kills:
        return Kills(*(one + two for one, two in zip(self, other, strict=True)))

    def __str__(self) -> str:
        return (
            f"{self.all} kills ({self.in_save} in the middle of a save, {self.at_start} before the first step) "
            f"in {self.runs} runs; each ended as the unbroken one: same digest, same loss and accuracy at every step"
        )


class Runs:
    """Runs by one engine, compared with one that was left alone.

    Args:
      folder: where they lie.
      engine: how they are spread.
      steps: how long they are.
      seed: fixes the moments of the kills, as far as the machine's speed allows.
    """

    def __init__(self, folder: Path, engine: Engine, steps: int, seed: int) -> None:
        self._folder, self._steps, self._moments = folder, steps, random.Random(seed)
        self._options: dict[str, Any] = {"cache": folder / "cache", "devices": engine.devices}
        every = {"log_every_steps": 3, "checkpoint_every_steps": 8, "evaluate_every_steps": 40}
        self._flags = [SMALL, *in_flags({"total_steps": steps, **every, **engine.settings})]
        lines(run("train", *self._flags, "--workdir", folder / "unbroken", **self._options))
        self._unbroken = self._outcome(folder / "unbroken")

    def kill(self) -> Kills:
        """Kills a run again and again until it comes to its end, and compares it."""
        workdir, kills = self._folder / "killed", Kills(runs=1)
        while one := self._kill_once(workdir):
            kills = kills.and_(one)
        assert self._outcome(workdir) == self._unbroken, f"{workdir} differs from {self._folder / 'unbroken'}"
        shutil.rmtree(workdir)
        return kills

    def _kill_once(self, workdir: Path) -> Kills | None:
        """Starts the run again, and kills it at a random moment; None where it ends before that."""
        early = self._moments.random() < 0.2
        wanted = 0 if early else self._moments.randint(1, 10)
        delay = self._moments.uniform(0, SECONDS_TO_START if early else 0.1)
        with training(*self._flags, "--workdir", workdir, **self._options) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            steps = (line for line in process.stdout if line.startswith("step "))
            seen = len(list(itertools.islice(steps, wanted)))
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(delay)
            process.kill()
            seen += len(list(steps))
            if process.wait() != -signal.SIGKILL:
                assert process.returncode == 0, process.stderr.read()
                return None
        # Before the first step of a start there is no save of its own: what lies there is an earlier one's.
        in_save = seen > 0 and any((workdir / "checkpoints").glob("*.orbax-checkpoint-tmp"))
        return Kills(all=1, in_save=int(in_save), at_start=int(seen == 0))

    def _outcome(self, workdir: Path) -> tuple[str, list[dict[str, Any]]]:
        """The digest of the last state, and all losses and accuracies."""
        digest, records = outcome(workdir)
        told = [record["step"] for record in records if record["split"] == "train"]
        assert told == sorted({*range(3, self._steps + 1, 3), self._steps})
        return digest, records


def main() -> None:
    """The same number of kills by each engine."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=60, help="at least so many in all")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    arguments = parser.parse_args()
    begun, total = time.perf_counter(), Kills()
    for name, engine in ENGINES.items():
        with tempfile.TemporaryDirectory() as folder:
            runs, here = Runs(Path(folder), engine, 200, arguments.seed), Kills()
            while here.all * len(ENGINES) < arguments.kills:
                here = here.and_(runs.kill())
                print(f"{name}, after {time.perf_counter() - begun:.0f} s: {here}", flush=True)
            total = total.and_(here)
    print(f"all: {total}")
    assert total.in_save > 0, "no kill fell into a save: use more --kills or another --seed"
    assert total.at_start > 0, "no kill fell before a first step: use more --kills or another --seed"


if __name__ == "__main__":
    main()
