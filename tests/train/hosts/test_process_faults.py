"""What can go wrong around a run of two processes: both end in one line, and the run ends as the unbroken one."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.train.processes import Process, training_together
from tests.train.runs.test_damaged_checkpoints import flip
from tests.train.support import outcome, write_two_classes

pytestmark = pytest.mark.slow

Settings = Mapping[str, object]
Start = Callable[..., AbstractContextManager[list[Process]]]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_two_classes(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def start(images: Path, cache: Path) -> Start:
    """Starts two processes on a run of 20 steps; the settings of process 1 may differ."""
    every = {"log_every_steps": 3, "checkpoint_every_steps": 5, "evaluate_every_steps": 6}

    def start(settings: Settings, of_second: Settings | None = None) -> AbstractContextManager[list[Process]]:
        common = {"data.source": f"folder:{images}", "total_steps": 20, **every, **settings}
        return training_together(lambda process: {**common, **((process and of_second) or {})}, cache)

    return start


def ended(both: list[Process]) -> list[tuple[int, list[str]]]:
    """Exit codes, and the lines for the user."""
    return [(process.finish(), process.errors()) for process in both]


@pytest.mark.full
def test_a_run_that_is_preempted_then_killed_then_damaged_ends_as_the_unbroken_one(start: Start, tmp_path: Path):
    with start({"workdir": tmp_path / "unbroken"}) as both:
        assert ended(both) == [(0, [])] * 2

    workdir = tmp_path / "broken"
    with start({"workdir": workdir}) as both:
        both[0].wait_for("step 6/")  # the first evaluation begins, and is compiled
        both[1].signal(signal.SIGTERM)
        assert ended(both) == [(0, [])] * 2
    line = both[0].wait_for("SIGTERM: ")
    saved = re.fullmatch(r"SIGTERM: saved at step (\d+) of 20; the same command resumes from there", line)
    assert saved
    assert 6 <= int(saved[1]) < 15

    with start({"workdir": workdir}) as both:
        both[0].wait_for("step 15/")  # its checkpoint begins to be saved
        both[1].signal(signal.SIGKILL)
        code, (line,) = ended(both)[0]
    assert f"{workdir} resumes at step {saved[1]} of 20" in both[0].out
    assert code == 1
    assert re.fullmatch(r"error: process 1 of 2 .*: start all processes again .* from the last checkpoint", line)

    *_, older, newest = sorted(int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdecimal())
    flip(workdir / "checkpoints" / str(newest))
    with start({"workdir": workdir}) as both:
        assert ended(both) == [(0, [])] * 2
    assert f"{workdir} resumes at step {older} of 20" in both[0].out
    told = both[0].wait_for(f"checkpoint {newest} is damaged (")
    assert told.endswith(f" and was set aside: step {older} is used")
    assert outcome(workdir) == outcome(tmp_path / "unbroken")


def test_an_image_that_one_of_them_cannot_read_ends_both(start: Start, tmp_path: Path):
    images = write_two_classes(tmp_path / "images")
    bad = images / "train" / "b" / "07.png"
    bad.write_bytes(bad.read_bytes()[:60])
    with start({"workdir": tmp_path / "run", "data.source": f"folder:{images}"}) as both:
        codes, errors = zip(*ended(both), strict=True)
    assert codes == (2, 2)
    (line,), (other,) = sorted(errors)
    assert re.fullmatch(rf"error: cannot read image {re.escape(str(bad))}: .+", line)
    assert re.fullmatch(rf"error: process [01] of 2: {re.escape(line.removeprefix('error: '))}", other)


def test_settings_that_differ_end_both(start: Start, tmp_path: Path):
    with start({"workdir": tmp_path}, {"seed": 1}) as both:
        line = "error: all processes must have the same settings: seed is 0 in process 0 and 1 in process 1"
        assert ended(both) == [(2, [line])] * 2
    assert not any(tmp_path.iterdir())


def test_work_directories_that_are_not_shared_end_both(start: Start, tmp_path: Path):
    with start({"workdir": tmp_path / "one"}, {"workdir": tmp_path / "two"}) as both:
        one, two = (f"{tmp_path / name} of process {number}" for number, name in enumerate(("one", "two")))
        line = f"error: work directory {one} is not {two}: all processes must share it"
        assert ended(both) == [(2, [line])] * 2
