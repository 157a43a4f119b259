"""Checkpoints that were damaged, could not be written, or are the leftovers of a kill."""

from __future__ import annotations

import errno
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnjax.training import TrainState
from tests.train.support import state_at
from train.config.errors import UserError
from train.runs import checksums
from train.runs.checkpoint import Checkpoints

SUMS = {"loss": 1.5, "count": 8}


def largest(checkpoint: Path) -> Path:
    """The file of a checkpoint that holds the values."""
    return max((checkpoint / "state" / "ocdbt.process_0" / "d").iterdir(), key=lambda path: path.stat().st_size)


def cut(checkpoint: Path) -> None:
    path = largest(checkpoint)
    path.write_bytes(path.read_bytes()[:-7])


def flip(checkpoint: Path) -> None:
    path = largest(checkpoint)
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def turn_into_folder(checkpoint: Path) -> None:
    path = largest(checkpoint)
    path.unlink()
    path.mkdir()


def empty(checkpoint: Path) -> None:
    shutil.rmtree(checkpoint)
    checkpoint.mkdir()


DAMAGE: dict[str, Callable[[Path], object]] = {
    "cut": cut,
    "flipped": flip,
    "empty": empty,
    "no file of values": lambda checkpoint: largest(checkpoint).unlink(),
    "no metadata": lambda checkpoint: (checkpoint / "state" / "_METADATA").unlink(),
    "garbled metadata": lambda checkpoint: (checkpoint / "state" / "_METADATA").write_text("{"),
    "no metrics": lambda checkpoint: shutil.rmtree(checkpoint / "metrics"),
    "no checksums": lambda checkpoint: (checkpoint / "checksums.json").unlink(),
    "empty checksums": lambda checkpoint: (checkpoint / "checksums.json").write_text(""),
    "checksums of another kind": lambda checkpoint: (checkpoint / "checksums.json").write_text("[1]"),
    "garbled checksums": lambda checkpoint: (checkpoint / "checksums.json").write_bytes(b"\xff\xfe{"),
    "a folder in the place of a file": turn_into_folder,
}


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """A folder with the checkpoints 1, 2 and 3."""
    checkpoints = Checkpoints(str(tmp_path), keep_last=3)
    for step in (1, 2, 3):
        checkpoints.save(step, state_at(step), SUMS, step / 10)
    checkpoints.close()
    return tmp_path


def same(one: TrainState, two: TrainState) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True))


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_checkpoint_gives_way_to_the_one_before(three: Path, how: str):
    DAMAGE[how](three / "3")
    checkpoints = Checkpoints(str(three), keep_last=3)
    found = checkpoints.restore_newest(state_at(0))
    assert found is not None
    assert same(found.state, state_at(2))
    assert (found.sums, found.score) == (SUMS, 0.2)
    (line,) = found.messages
    assert re.fullmatch(r"checkpoint 3 is damaged \(.+\) and was set aside: step 2 is used", line)
    assert {path.name for path in three.iterdir()} == {"1", "2", "3.damaged1"}

    checkpoints.save(3, state_at(3), SUMS, None)
    checkpoints.close()
    again = Checkpoints(str(three), read_only=True)
    assert again.steps() == [1, 2, 3]
    assert same(again.restore(3, state_at(0)).state, state_at(3))
    again.close()


def test_several_damaged_checkpoints_are_all_told_of_and_set_aside(three: Path):
    shutil.copytree(three / "3", three / "3.damaged1")
    for step in (2, 3):
        flip(three / str(step))
    checkpoints = Checkpoints(str(three), keep_last=3)
    found = checkpoints.restore_newest(state_at(0))
    assert found is not None
    assert same(found.state, state_at(1))
    assert [line.split()[1] for line in found.messages] == ["3", "2"]
    assert {path.name for path in three.iterdir()} == {"1", "2.damaged1", "3.damaged1", "3.damaged2"}
    checkpoints.close()


def test_where_all_are_damaged_the_run_does_not_begin_anew(three: Path):
    for step in (1, 2, 3):
        cut(three / str(step))
    checkpoints = Checkpoints(str(three), keep_last=3)
    message = r"all checkpoints in .* are damaged: 3 \(.*\), 2 \(.*\), 1 \(.*\); remove them to start over"
    with pytest.raises(UserError, match=message):
        checkpoints.restore_newest(state_at(0))
    assert {path.name for path in three.iterdir()} == {"1", "2", "3"}
    checkpoints.close()


def test_without_checkpoints_there_is_nothing_to_restore(tmp_path: Path):
    checkpoints = Checkpoints(str(tmp_path))
    assert checkpoints.restore_newest(state_at(0)) is None
    checkpoints.close()


def test_whole_checkpoints_are_restored_without_a_word(three: Path):
    checkpoints = Checkpoints(str(three), keep_last=3)
    found = checkpoints.restore_newest(state_at(0))
    assert found is not None
    assert same(found.state, state_at(3))
    assert found[1:] == (SUMS, 0.3, [])
    checkpoints.close()


def test_a_damaged_checkpoint_that_is_asked_for_is_an_error_and_stays(three: Path):
    flip(three / "3")
    checkpoints = Checkpoints(str(three), read_only=True)
    message = r"checkpoint .*/3 is damaged \(.* does not match its checksum\): step 2 is the newest intact one"
    with pytest.raises(UserError, match=message):
        checkpoints.restore(checkpoints.find("last"), state_at(0))
    assert checkpoints.steps() == [1, 2, 3]
    checkpoints.close()


def test_a_whole_checkpoint_of_another_net_is_no_damage(three: Path):
    other = state_at(0).replace(variables={"params": {"head": {"kernel": jnp.zeros((2, 3))}}})
    checkpoints = Checkpoints(str(three), keep_last=3)
    with pytest.raises(UserError, match=r"checkpoint .*/3 cannot be read: "):
        checkpoints.restore_newest(other)
    assert checkpoints.steps() == [1, 2, 3]
    checkpoints.close()


def test_a_save_that_fails_names_its_step_and_the_last_whole_one(three: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    checkpoints = Checkpoints(str(three), keep_last=3)
    message = f"cannot save the checkpoint of step 4 in {three}: No space left on device; the last intact .* is step 3$"
    with monkeypatch.context() as patched:
        patched.setattr(checksums, "seal", full)
        checkpoints.save(4, state_at(4), SUMS, None)
        with pytest.raises(UserError, match=message):
            checkpoints.save(5, state_at(5), SUMS, None)
    assert checkpoints.steps() == [1, 2, 3]
    checkpoints.save(4, state_at(4), SUMS, None)
    checkpoints.close()
    assert checkpoints.steps() == [2, 3, 4]


def test_what_a_killed_process_was_removing_is_removed(three: Path):
    (three / "1").rename(three / "1.removed")
    (three / "4.orbax-checkpoint-tmp").mkdir()
    Checkpoints(str(three), keep_last=3).close()
    assert {path.name for path in three.iterdir()} == {"2", "3"}


def test_a_save_that_fails_in_the_background_is_noticed_before_the_next_one(
    three: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    checkpoints = Checkpoints(str(three), keep_last=3)
    monkeypatch.setattr(checksums, "seal", full)
    checkpoints.save(4, state_at(4), SUMS, None)
    with pytest.raises(UserError, match="cannot save the checkpoint of step 4 in "):
        all(checkpoints.check() is None for _ in range(10_000_000))  # type: ignore[func-returns-value]
    checkpoints.close()


def test_facts_are_not_added_to_checksums_that_cannot_be_read(three: Path):
    checkpoints = Checkpoints(str(three), keep_last=3)
    (three / "3" / "checksums.json").write_text("{")
    with pytest.raises(ValueError, match="Expecting"):
        checkpoints.save(3, state_at(3), SUMS, 0.9)
    assert (three / "3" / "checksums.json").read_text() == "{"
    checkpoints.close()
