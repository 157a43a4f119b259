"""What can go wrong around a run: each fault ends in one line or is got over, and the run ends as the unbroken one."""

from __future__ import annotations

import itertools
import json
import os
import re
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.kinds import only_in_full
from tests.train.faults import ENGINES, Runs
from tests.train.runs.test_damaged_checkpoints import DAMAGE, flip
from tests.train.support import SMALL, figures, kill_at, lines, outcome, run, small, training, write_images
from train import evaluate, train
from train.__main__ import main
from train.config.errors import UserError
from train.data import sources
from train.runs import checksums
from train.tasks import classification
from train.tasks.classification import Evaluation

Trained = tuple[Path, Evaluation]
EVERY = ("--total_steps", 16, "--checkpoint_every_steps", 4, "--evaluate_every_steps", 8, "--log_every_steps", 1)
CUT = (SMALL, *EVERY)


@pytest.fixture
def copied(trained: Trained, tmp_path: Path) -> Path:
    """A copy of a finished run with checkpoints at least of the steps 4 and 6, to write to."""
    return Path(shutil.copytree(trained[0], tmp_path / "copied"))


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> str:
    """The digest of a run that nothing happened to, and with it all programs compiled."""
    workdir = tmp_path_factory.mktemp("unbroken")
    lines(run("train", *CUT, "--workdir", workdir, cache=cache))
    return outcome(workdir)[0]


@pytest.mark.parametrize("how", ["cut", "flipped", "no metadata", "empty", "missing"])
def test_a_run_whose_newest_checkpoint_is_damaged_goes_on_from_the_one_before(
    trained: Trained, copied: Path, how: str, capsys: pytest.CaptureFixture[str]
):
    newest = copied / "checkpoints" / "6"
    shutil.rmtree(newest) if how == "missing" else DAMAGE[how](newest)
    result = train(small(), str(copied))
    said = capsys.readouterr().out
    assert f"{copied} resumes at step 4 of 6" in said
    told = re.findall(r"^checkpoint 6 is damaged \(.*\) and was set aside: step 4 is used$", said, re.MULTILINE)
    assert len(told) == (how != "missing")
    assert result is not None
    assert (result.loss, result.accuracy) == (trained[1].loss, trained[1].accuracy)
    assert outcome(copied) == outcome(trained[0])


def test_a_run_whose_checkpoints_are_all_damaged_is_an_error_and_left_as_it_is(copied: Path):
    for checkpoint in (copied / "checkpoints").iterdir():
        flip(checkpoint)
    before = {path: path.stat().st_mtime_ns for path in copied.rglob("*") if path.is_file() and path.name != "lock"}
    with pytest.raises(UserError, match=r"all checkpoints in .* are damaged: 6 \(.*\); remove them to start over"):
        train(small(), str(copied))
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_the_programs_that_only_read_name_a_damaged_checkpoint(copied: Path, fails: Callable[..., str]):
    flip(copied / "checkpoints" / "6")
    said = fails(evaluate.main, "--workdir", copied)
    assert re.search(
        r"checkpoints/6 is damaged \(.* does not match its checksum\): step 4 is the newest intact one$", said
    )
    evaluate.main(["--workdir", str(copied), "--checkpoint", "4"])


@pytest.mark.slow
def test_a_full_disk_ends_in_one_line_and_the_same_command_goes_on_later(tmp_path: Path, cache: Path, unbroken: str):
    kill_at(9, *CUT, "--workdir", tmp_path, cache=cache)
    with training(*CUT, "--workdir", tmp_path, cache=cache) as process:
        room = 30_000  # a larger file fails as on a full disk; that is the state alone
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (room, room))
        errors = process.communicate()[1]
    assert process.returncode == 2
    folder = tmp_path / "checkpoints"
    reason = r"File too large; the last intact checkpoint is step \d+"
    assert re.fullmatch(rf"error: cannot save the checkpoint of step \d+ in {folder}: {reason}\n", errors)
    said = lines(run("train", *CUT, "--workdir", tmp_path, cache=cache))
    assert any(re.search(r"resumes at step \d+ of 16", line) for line in said)
    assert outcome(tmp_path)[0] == unbroken


def test_a_work_directory_that_cannot_be_written_to_is_named(tmp_path: Path, fails: Callable[..., str]):
    (tmp_path / "file").write_text("")
    workdir = tmp_path / "file" / "run"
    message = f"error: cannot write to work directory {workdir}: Not a directory"
    assert fails(main, *CUT, "--workdir", workdir) == message


@pytest.mark.slow
def test_of_two_runs_in_one_work_directory_the_second_is_refused(
    tmp_path: Path, cache: Path, unbroken: str, fails: Callable[..., str]
):
    with training(*CUT, "--workdir", tmp_path, cache=cache) as first:
        assert first.stdout is not None
        assert any(line.startswith("step 1/") for line in first.stdout)
        first.send_signal(signal.SIGSTOP)
        said = fails(main, *CUT, "--workdir", tmp_path)
        assert f"{tmp_path} is in use by process {first.pid} on " in said
        first.send_signal(signal.SIGCONT)
        first.communicate()
    assert first.returncode == 0
    assert outcome(tmp_path)[0] == unbroken


def test_a_corrupt_image_among_many_is_named_or_skipped(tmp_path: Path, fails: Callable[..., str]):
    paths = [path for name in "ab" for path in write_images(tmp_path / "images" / name, 40)]
    content = paths[17].read_bytes()
    paths[17].write_bytes(content[: len(content) // 2])
    flags = (*CUT, "--data.source", f"folder:{tmp_path / 'images'}", "--workdir", tmp_path / "run")
    assert fails(main, *flags).startswith(f"error: cannot read image {paths[17]}: ")
    main([*map(str, flags), "--data.skip_unreadable", "True"])
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["unreadable_images"] == [str(paths[17])]


@pytest.mark.parametrize("death", [RuntimeError("the thread died"), *map(only_in_full, (SystemExit(3), MemoryError()))])
def test_a_data_thread_that_dies_ends_the_run_which_can_go_on(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, death: BaseException
):
    reads = 0

    def read(self: Any, index: int) -> tuple[np.ndarray, int]:
        nonlocal reads
        reads += 1
        if reads > 500:
            raise death
        return original(self, index)

    original = sources._Arrays.__getitem__
    with monkeypatch.context() as patched:
        patched.setattr(sources._Arrays, "__getitem__", read)
        with pytest.raises(type(death)):
            train(small(), str(tmp_path))
    assert not (tmp_path / "summary.json").exists()
    train(small(), str(tmp_path))
    assert outcome(tmp_path) == outcome(trained[0])


@pytest.mark.slow
def test_sigterm_saves_and_ends_well_and_the_same_command_goes_on(tmp_path: Path, cache: Path, unbroken: str):
    with training(*CUT, "--workdir", tmp_path, cache=cache) as process:
        assert process.stdout is not None
        assert any(line.startswith("step 5/") for line in process.stdout)
        process.send_signal(signal.SIGTERM)
        said = process.communicate()[0]
    assert process.returncode == 0
    saved = re.search(r"^SIGTERM: saved at step (\d+) of 16; the same command resumes from there$", said, re.MULTILINE)
    assert saved
    resumed = lines(run("train", *CUT, "--workdir", tmp_path, cache=cache))
    assert f"{tmp_path} resumes at step {saved[1]} of 16" in resumed
    assert outcome(tmp_path)[0] == unbroken


@pytest.fixture(scope="module")
def every_third(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing happened to, which is logged every third step and evaluated every second."""
    workdir = tmp_path_factory.mktemp("every_third")
    train(small({"log_every_steps": 3}), str(workdir))
    return workdir


@pytest.mark.parametrize("step", [4, only_in_full(6)])
def test_sigterm_in_an_evaluation_saves_at_once_and_the_evaluation_is_done_later(
    every_third: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], step: int
):
    evaluations = itertools.count(2, 2)
    asked: list[int] = []

    def batches(*arguments: Any) -> Iterator[Any]:
        here = next(evaluations)
        for index, batch in enumerate(original(*arguments)):
            asked.append(index)
            if (here, index) == (step, 3):
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    config, original = small({"log_every_steps": 3}), classification.evaluation_batches
    with monkeypatch.context() as patched:
        patched.setattr(classification, "evaluation_batches", batches)
        assert train(config, str(tmp_path)) is None
    assert asked[-1] == 3
    said = capsys.readouterr().out
    assert said.endswith(f"SIGTERM: saved at step {step} of 6; the same command resumes from there\n")
    assert [line["step"] for line in figures(tmp_path) if line["split"] == "test"] == list(range(2, step, 2))
    train(config, str(tmp_path))
    assert f"{tmp_path} resumes at step {step} of 6" in capsys.readouterr().out
    assert outcome(tmp_path) == outcome(every_third)
    kept = [{path.name for path in (run / "checkpoints").iterdir()} for run in (tmp_path, every_third)]
    assert kept[0] == kept[1]


def test_sigterm_before_the_first_step_ends_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def open_dataset(*arguments: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return original(*arguments)

    original = classification.open_dataset
    monkeypatch.setattr(classification, "open_dataset", open_dataset)
    assert train(small(), str(tmp_path)) is None
    assert capsys.readouterr().out.endswith("SIGTERM: nothing to save yet; the same command resumes from there\n")
    assert not any((tmp_path / "checkpoints").iterdir())


def test_a_kill_before_a_checkpoint_has_its_name_leaves_the_one_before(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    class KilledError(BaseException):
        """Ends the thread that saves where a kill would end the process."""

    def seal(folder: str, *arguments: Any) -> None:
        if folder.endswith("4.orbax-checkpoint-tmp"):
            raise KilledError
        original(folder, *arguments)

    original = checksums.seal
    with monkeypatch.context() as patched:
        patched.setattr(checksums, "seal", seal)
        with pytest.raises(KilledError):
            train(small(), str(tmp_path))
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"2", "4.orbax-checkpoint-tmp"}
    train(small(), str(tmp_path))
    assert outcome(tmp_path) == outcome(trained[0])


@pytest.mark.slow
@pytest.mark.full
@pytest.mark.parametrize("engine", sorted(ENGINES))
def test_runs_killed_at_random_moments_end_as_the_unbroken_one(tmp_path: Path, engine: str):
    runs = Runs(tmp_path, ENGINES[engine], steps=24, seed=2)
    assert runs.kill().all > 0
