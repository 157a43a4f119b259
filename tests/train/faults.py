"""Runs that are killed again and again at random moments must end as the unbroken one.

python -m tests.train.faults [--kills 60] [--seed 0]
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import random
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from tests.train.runs import DIGITS, SMALL, lines, run, training

DEVICES = {"jit": 1, "pmap": 2}
SECONDS_TO_START = 8.0


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
      engine: `jit` or `pmap`.
      steps: how long they are.
      seed: fixes the moments of the kills, as far as the machine's speed allows.
    """

    def __init__(self, folder: Path, engine: str, steps: int, seed: int) -> None:
        self._folder, self._steps, self._moments = folder, steps, random.Random(seed)
        self._options: dict[str, Any] = {"cache": folder / "cache", "devices": DEVICES[engine]}
        every = {"log_every_steps": 1, "checkpoint_every_steps": 8, "evaluate_every_steps": 40}
        settings = {"total_steps": steps, "parallel.engine": engine, **every}
        self._flags = [DIGITS, *SMALL, *(f"--{name}={value}" for name, value in settings.items())]
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
        at_start = self._moments.random() < 0.2
        seen = 0 if at_start else self._moments.randint(1, 30)
        delay = self._moments.uniform(0, SECONDS_TO_START if at_start else 0.1)
        with training(*self._flags, "--workdir", workdir, **self._options) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            steps = (line for line in process.stdout if line.startswith("step "))
            for _ in itertools.islice(steps, seen):
                pass
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(delay)
                assert process.returncode == 0, process.stderr.read()
                return None
        in_save = any((workdir / "checkpoints").glob("*.orbax-checkpoint-tmp"))
        return Kills(all=1, in_save=int(in_save), at_start=int(at_start))

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
    begun, total = time.perf_counter(), Kills()
    for engine in DEVICES:
        with tempfile.TemporaryDirectory() as folder:
            runs, here = Runs(Path(folder), engine, 200, arguments.seed), Kills()
            while here.all * len(DEVICES) < arguments.kills:
                here = here.and_(runs.kill())
                print(f"{engine}, after {time.perf_counter() - begun:.0f} s: {here}", flush=True)
            total = total.and_(here)
    print(f"{' and '.join(DEVICES)}: {total}")


if __name__ == "__main__":
    main()
