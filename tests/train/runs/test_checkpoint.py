"""Which checkpoints are kept and found, and what comes back of them; the digest."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.train.support import state_at
from train.config.errors import UserError
from train.runs.checkpoint import Checkpoints
from train.runs.provenance import digest

SUMS = {"loss": 1.5, "count": 8}


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Checkpoints]:
    """Six steps, of which the third is the best: the last two and the best one are kept."""
    checkpoints = Checkpoints(str(tmp_path), keep_last=2, keep_best=1)
    for step, score in enumerate([0.5, 0.6, 0.9, None, 0.7, None], start=1):
        checkpoints.save(step, state_at(step), SUMS, score)
    checkpoints.close()
    reopened = Checkpoints(str(tmp_path), read_only=True)
    yield reopened
    reopened.close()


def test_the_last_ones_and_the_best_are_kept(kept: Checkpoints):
    assert kept.steps() == [3, 5, 6]


@pytest.mark.parametrize(
    ("keep_last", "keep_best", "steps"),
    [(1, 0, [6]), (1, 1, [3, 6]), (1, 2, [3, 5, 6]), (3, 1, [3, 4, 5, 6])],
)
def test_as_many_are_kept_as_the_settings_say(tmp_path: Path, keep_last: int, keep_best: int, steps: list[int]):
    checkpoints = Checkpoints(str(tmp_path), keep_last, keep_best)
    for step, score in enumerate([0.5, 0.6, 0.9, None, 0.7, None], start=1):
        checkpoints.save(step, state_at(step), SUMS, score)
    checkpoints.close()
    reopened = Checkpoints(str(tmp_path), read_only=True)
    assert reopened.steps() == steps
    reopened.close()


@pytest.mark.parametrize(("which", "step"), [("last", 6), ("best", 3), ("5", 5)])
def test_last_best_and_a_step_are_found(kept: Checkpoints, which: str, step: int):
    assert kept.find(which) == step


@pytest.mark.parametrize("which", ["4", "7", "first", "", "-1", "5.0", "²"])
def test_what_is_not_kept_names_what_is(kept: Checkpoints, which: str):
    message = f"checkpoint={which!r} must be best, last or one of the kept steps [3, 5, 6]"
    with pytest.raises(UserError, match=re.escape(message)):
        kept.find(which)


def test_without_a_score_the_last_is_the_best(tmp_path: Path):
    checkpoints = Checkpoints(str(tmp_path), keep_last=2)
    for step in (1, 2):
        checkpoints.save(step, state_at(step), SUMS, None)
    checkpoints.wait()
    assert checkpoints.find("best") == 2
    checkpoints.close()


def test_state_and_sums_come_back_bit_for_bit(kept: Checkpoints):
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state_at(0))
    state, sums, score, _ = kept.restore(5, like)
    assert (sums, score) == (SUMS, 0.7)
    assert jax.tree.structure(state) == jax.tree.structure(state_at(5))
    for one, two in zip(jax.tree.leaves(state), jax.tree.leaves(state_at(5)), strict=True):
        assert one.dtype == two.dtype
        np.testing.assert_array_equal(one, two)
    assert digest(state.variables) == digest(state_at(5).variables)


def test_a_step_saved_before_is_not_saved_again(tmp_path: Path):
    checkpoints = Checkpoints(str(tmp_path))
    checkpoints.save(1, state_at(1), SUMS, 0.5)
    checkpoints.save(1, state_at(1).replace(opt_state=()), {"loss": 9.0}, None)
    checkpoints.close()
    reopened = Checkpoints(str(tmp_path), read_only=True)
    assert reopened.restore(1, state_at(0))[1:3] == (SUMS, 0.5)
    reopened.close()


def test_a_score_can_come_after_the_checkpoint(tmp_path: Path):
    checkpoints = Checkpoints(str(tmp_path), keep_last=3)
    for step in (1, 2, 3):
        checkpoints.save(step, state_at(step), SUMS, 0.5 if step == 1 else None)
    checkpoints.save(3, state_at(3), SUMS, 0.8)
    assert checkpoints.find("best") == 3
    assert checkpoints.restore(3, state_at(0)).score == 0.8
    checkpoints.close()


def test_the_best_one_before_gives_way_to_a_score_that_comes_later(tmp_path: Path):
    checkpoints = Checkpoints(str(tmp_path))
    for step, score in ((1, 0.5), (2, None)):
        checkpoints.save(step, state_at(step), SUMS, score)
    checkpoints.save(2, state_at(2), SUMS, 0.8)
    assert checkpoints.steps() == [2]
    checkpoints.close()


def test_reading_leaves_the_folder_of_a_running_process_alone(tmp_path: Path):
    checkpoints = Checkpoints(str(tmp_path))
    checkpoints.save(1, state_at(1), SUMS, None)
    checkpoints.close()
    begun = tmp_path / "2.orbax-checkpoint-tmp"
    begun.mkdir()
    reader = Checkpoints(str(tmp_path), read_only=True)
    assert reader.steps() == [1]
    reader.close()
    assert begun.is_dir()


def test_what_a_killed_process_left_half_written_is_passed_over(tmp_path: Path):
    checkpoints = Checkpoints(str(tmp_path))
    checkpoints.save(1, state_at(1), SUMS, None)
    checkpoints.close()
    (tmp_path / "2.orbax-checkpoint-tmp").mkdir()
    again = Checkpoints(str(tmp_path))
    assert again.find("last") == 1
    again.save(2, state_at(2), SUMS, None)
    again.close()
    assert Checkpoints(str(tmp_path), read_only=True).find("last") == 2


def variables() -> dict[str, Any]:
    return {
        "params": {"a": np.arange(4, dtype=np.float32), "b": {"c": np.ones((2, 2), np.float32)}},
        "batch_stats": {"a": np.zeros(3, np.float32)},
    }


def test_the_digest_is_64_hex_digits_of_all_values():
    assert re.fullmatch(r"[0-9a-f]{64}", digest(variables()))
    assert digest(variables()) == digest(jax.tree.map(jnp.asarray, variables()))


@pytest.mark.parametrize("collection", ["params", "batch_stats"])
def test_the_digest_changes_with_the_last_bit_of_one_value(collection: str):
    changed = variables()
    changed[collection]["a"][1] = np.nextafter(changed[collection]["a"][1], np.float32(9))
    assert digest(changed) != digest(variables())


def test_the_digest_knows_names_shapes_and_types():
    base = variables()
    named = {
        "params": {"A": base["params"]["a"], "b": base["params"]["b"]},
        "batch_stats": base["batch_stats"],
    }
    shaped, typed = variables(), variables()
    shaped["params"]["a"] = shaped["params"]["a"].reshape(2, 2)
    typed["params"]["a"] = typed["params"]["a"].view(np.int32)
    assert len({digest(one) for one in (base, named, shaped, typed)}) == 4


def test_the_digest_does_not_ask_for_the_order_of_names():
    base = variables()
    turned = {"batch_stats": base["batch_stats"], "params": dict(reversed(base["params"].items()))}
    assert digest(turned) == digest(base)
