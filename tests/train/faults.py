"""Runs that are killed again and again at random moments must end as the unbroken one.

python -m tests.train.faults [--kills 60] [--seed 0] [--folder DIR]
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import json
import random
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.train.runs import DIGITS, SMALL, lines, run, training

DEVICES = {"jit": 1, "pmap": 2}
SECONDS_TO_START = 8.0


@dataclasses.dataclass
class Kills:
    """How many processes were killed, and how many of them while they started or were writing a checkpoint."""

    all: int = 0
    at_start: int = 0
    in_save: int = 0
    runs: int = 0

    def __str__(self) -> str:
        return (
            f"{self.all} kills ({self.in_save} inside of a save, {self.at_start} before the first step) in {self.runs} "
            "runs, all of which ended as the unbroken one: the same digest and the same figures at every step"
        )


class Runs:
    """Runs by one engine, compared with one that was left alone.

    Args:
      folder: where they lie.
      engine: `jit` or `pmap`.
      steps: how long they are.
      seed: fixes the moments of the kills, as far as the machine's speed allows.
    """

    def __init__(self, folder: Path, engine: str, steps: int, seed: int) -> None:
        self._folder, self._steps, self._moments = folder, steps, random.Random(seed)
        self._options: dict[str, Any] = {"cache": folder / "cache", "devices": DEVICES[engine]}
        every = {"log_every_steps": 1, "checkpoint_every_steps": 4, "evaluate_every_steps": 40}
        settings = {"total_steps": steps, "parallel.engine": engine, **every}
        self._flags = [DIGITS, *SMALL, *(f"--{name}={value}" for name, value in settings.items())]
        lines(run("train", *self._flags, "--workdir", folder / "unbroken", **self._options))
        self._unbroken = self._outcome(folder / "unbroken")

    def kill(self, least: int) -> Kills:
        """Breaks one run after the other until so many processes were killed and the last run has come to its end."""
        kills = Kills()
        while kills.all < least:
            workdir = self._folder / f"killed{kills.runs}"
            while not self._ends(workdir, kills):
                pass
            kills.runs += 1
            assert self._outcome(workdir) == self._unbroken, f"{workdir} differs from {self._folder / 'unbroken'}"
            shutil.rmtree(workdir)
        return kills

    def _ends(self, workdir: Path, kills: Kills) -> bool:
        """Starts the run again, and kills it at a random moment unless it ends before that."""
        at_start = self._moments.random() < 0.2
        seen = 0 if at_start else self._moments.randint(1, 30)
        delay = self._moments.uniform(0, SECONDS_TO_START if at_start else 0.1)
        with training(*self._flags, "--workdir", workdir, **self._options) as process:
            assert process.stdout is not None
            steps = (line for line in process.stdout if line.startswith("step "))
            for _ in itertools.islice(steps, seen):
                pass
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(delay)
            ended = process.poll() is not None
        if ended:
            assert process.returncode == 0, process.stderr.read()
            return True
        kills.all += 1
        kills.at_start += at_start
        kills.in_save += any((workdir / "checkpoints").glob("*.orbax-checkpoint-tmp"))
        return False

    def _outcome(self, workdir: Path) -> tuple[str, list[dict[str, Any]]]:
        """The digest of the last state, and the loss and accuracy of every step."""
        digest = lines(run("train.evaluate", "--workdir", workdir, "--digest", **self._options))[-1]
        records = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
        for record in records:
            record.pop("images_per_second", None)
        assert [record["step"] for record in records if record["split"] == "train"] == list(range(1, self._steps + 1))
        return digest, records


def main() -> None:
    """Half of the kills by each engine."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=60, help="at least so many in all")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    arguments = parser.parse_args()
    begun = time.perf_counter()
    for engine in DEVICES:
        with tempfile.TemporaryDirectory() as folder:
            kills = Runs(Path(folder), engine, 200, arguments.seed).kill(-(-arguments.kills // len(DEVICES)))
            print(f"{engine}: {kills}, {time.perf_counter() - begun:.0f} s so far", flush=True)


if __name__ == "__main__":
    main()
