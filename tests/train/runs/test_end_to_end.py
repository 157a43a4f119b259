"""The programs as a user runs them: processes of their own, one device, a small net, few steps."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.train.support import SMALL, kill_at, lines, run

ACCURACY = r"test_accuracy=(0\.\d{4}|1\.0000)"
CUT = (
    SMALL,
    "--total_steps",
    16,
    "--checkpoint_every_steps",
    4,
    "--log_every_steps",
    2,
)

Straight = tuple[Path, list[str]]


@pytest.fixture(scope="session")
def straight(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Straight:
    """A run from beginning to end, and what it printed."""
    workdir = tmp_path_factory.mktemp("straight")
    return workdir, lines(run("train", *CUT, "--workdir", workdir, cache=cache))


def test_training_prints_the_test_accuracy_last(straight: Straight):
    workdir, said = straight
    assert re.fullmatch(ACCURACY, said[-1])
    assert said[:2] == [
        "1 device (cpu), 16 images a step",
        "resnet20_cifar on digits: 1437 training images of 8x8x1, 10 classes, 16 steps of 16",
    ]
    summary = json.loads((workdir / "summary.json").read_text())
    assert said[-1] == f"test_accuracy={summary['test_accuracy']:.4f}"


def test_a_run_leaves_its_files(straight: Straight):
    workdir, _ = straight
    made = {str(path.relative_to(workdir)) for path in workdir.rglob("*") if path.is_file()}
    files = {"config.json", "metrics.jsonl", "summary.json", "curves.png", "confusion.png", "confusion.csv"}
    assert files <= made
    assert sum(name.startswith("tensorboard/events.out.tfevents.") for name in made) == 1
    assert {path.name for path in (workdir / "checkpoints").iterdir()} == {"12", "16"}
    stored = json.loads((workdir / "config.json").read_text())
    assert set(stored["versions"]) >= {"python", "jax", "flax", "optax", "grain"}
    assert "git_commit" in stored


def test_evaluating_prints_the_same_accuracy_last(straight: Straight, cache: Path):
    workdir, said = straight
    assert lines(run("train.evaluate", "--workdir", workdir, cache=cache))[-1] == said[-1]


def test_the_same_command_again_says_finished_and_the_same_accuracy(straight: Straight, cache: Path):
    workdir, said = straight
    before = (workdir / "metrics.jsonl").read_bytes()
    again = lines(run("train", *CUT, "--workdir", workdir, cache=cache))
    assert any(re.search(r"finished at step 16", line) for line in again)
    assert again[-1] == said[-1]
    assert (workdir / "metrics.jsonl").read_bytes() == before


def test_predict_prints_a_line_for_each_image(straight: Straight, cache: Path, digit_files: list[Path]):
    said = lines(run("train.predict", *digit_files, "--workdir", straight[0], cache=cache))
    for line, path in zip(said, digit_files, strict=True):
        assert re.fullmatch(rf"{re.escape(str(path))}\t\d\t[01]\.\d{{4}}", line)


@pytest.mark.slow
@pytest.mark.full
def test_a_killed_run_resumes_to_the_very_same_net(straight: Straight, cache: Path, tmp_path: Path):
    workdir, said = straight
    kill_at(10, *CUT, "--workdir", tmp_path, cache=cache)
    resumed = lines(run("train", *CUT, "--workdir", tmp_path))
    assert any(re.search(r"resumes at step (4|8|12) of 16", line) for line in resumed)
    assert resumed[-1] == said[-1]

    one, two = (
        lines(run("train.evaluate", "--workdir", path, "--digest", cache=cache)) for path in (workdir, tmp_path)
    )
    assert re.fullmatch(r"[0-9a-f]{64}", one[-1])
    assert re.fullmatch(ACCURACY, one[-2])
    assert two == one

    texts = [(path / "metrics.jsonl").read_text() for path in (workdir, tmp_path)]
    records = [[json.loads(line) for line in text.splitlines()] for text in texts]
    for line in (*records[0], *records[1]):
        line.pop("images_per_second", None)
    assert records[1] == records[0]
    assert [line["step"] for line in records[0]] == [2, 4, 6, 8, 10, 12, 14, 16, 16]


def test_a_loss_that_is_not_finite_ends_in_one_line(cache: Path, tmp_path: Path):
    done = run("train", *CUT, "--optimizer.learning_rate", 1e30, "--workdir", tmp_path, cache=cache)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert re.match(r"error: loss, gradient or parameters are not finite at step \d+ ", line)
