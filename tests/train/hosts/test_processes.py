"""Whole runs of one and of two processes, which are the same run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.kinds import only_in_full
from tests.train.processes import training_together
from tests.train.support import write_two_classes

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_two_classes(tmp_path_factory.mktemp("images"))


class Runs:
    """Trains on eight devices, in one process or two."""

    def __init__(self, images: Path, cache: Path) -> None:
        self._images, self._cache = images, cache

    def train(self, workdir: Path, steps: int, count: int, engine: str) -> None:
        settings = {"workdir": workdir, "total_steps": steps, "data.source": f"folder:{self._images}"}
        settings["parallel.engine"] = engine
        with training_together(lambda process: settings, self._cache, count, 8 // count) as started:
            for process in started:
                assert process.finish(600) == 0, process.err


@pytest.fixture(scope="module")
def runs(images: Path, cache: Path) -> Runs:
    return Runs(images, cache)


@pytest.fixture(scope="module")
def straight(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process to step 8, under jit."""
    workdir = tmp_path_factory.mktemp("straight")
    runs.train(workdir, 8, 1, "jit")
    return workdir


def figures(workdir: Path) -> dict[tuple[int, str], list[float]]:
    """Loss and accuracy by step and split."""
    records: list[dict[str, Any]] = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {(record["step"], record["split"]): [record["loss"], record["accuracy"]] for record in records}


def assert_same_run(one: Path, two: Path) -> None:
    expected, found = figures(one), figures(two)
    assert list(found) == list(expected)
    np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=1e-4)
    summary = json.loads((two / "summary.json").read_text())
    assert (summary["steps"], summary["test_images"]) == (8, 103)
    assert (two / "confusion.csv").read_text() == (one / "confusion.csv").read_text()


@pytest.mark.parametrize(("engine", "counts"), [("jit", (2, 1)), only_in_full("pmap", (1, 2))])
def test_a_run_goes_on_in_another_number_of_processes(
    runs: Runs, straight: Path, tmp_path: Path, engine: str, counts: tuple[int, int]
):
    for steps, count in zip((4, 8), counts, strict=True):
        runs.train(tmp_path / "run", steps, count, engine)
    assert_same_run(straight, tmp_path / "run")
