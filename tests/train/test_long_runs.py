"""Whole runs of the embedded default, and runs that are killed again and again."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.train.runs import DIGITS, SMALL, kill_at, lines, run


@pytest.mark.slow
def test_the_embedded_default_gets_98_5_percent_and_repeats_itself(tmp_path: Path):
    digests = set()
    for name in ("first", "second"):
        accuracy = lines(run("train", DIGITS, "--workdir", tmp_path / name))[-1]
        assert float(accuracy.removeprefix("test_accuracy=")) >= 0.985
        digests.add(lines(run("train.evaluate", "--workdir", tmp_path / name, "--digest"))[-1])
    assert len(digests) == 1


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_a_run_killed_at_random_moments_ends_as_the_unbroken_one(tmp_path: Path, cache: Path, seed: int):
    every = ["--log_every_steps", "1", "--checkpoint_every_steps", "3", "--evaluate_every_steps", "9"]
    flags = [DIGITS, *SMALL, "--total_steps", "60", *every]
    lines(run("train", *flags, "--workdir", tmp_path / "straight", cache=cache))
    moments = random.Random(seed)
    for step in sorted(moments.sample(range(2, 60), 4)):
        kill_at(step, *flags, "--workdir", tmp_path / "killed", cache=cache)
    lines(run("train", *flags, "--workdir", tmp_path / "killed", cache=cache))
    straight, killed = (
        lines(run("train.evaluate", "--workdir", tmp_path / name, "--digest", cache=cache))[-1]
        for name in ("straight", "killed")
    )
    assert straight == killed
