"""Several seeds of one run, in turn and together, end as each does alone."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import chex
import jax
import numpy as np
import pytest
from flax import linen as nn

from attnjax.attention import CBAM
from attnjax.layers import BatchNorm
from attnjax.models import BasicBlock, ResNet
from tests.train.support import figures, outcome, replace, small
from tests.train.test_parallel import CONFIG, MIXED, STEPS
from train.ablation.seeds import TogetherStep, is_done, seeded, train_cohort, trains_together
from train.config import Config, ModelConfig
from train.config.errors import NotFiniteError, UserError
from train.layout import Layout
from train.metrics import Metrics
from train.parallel import Step, training_step
from train.runs.checkpoint import checkpoint_steps
from train.runs.loop import train
from train.runs.record import Run, load_run, read_run
from train.runs.report import Report
from train.state import TrainState

SEEDS = (0, 3, 2**31 + 5, 7)
DROPPED: dict[str, Any] = {"dropout_rate": 0.1}
TINY = {"widths": (8,), "stage_sizes": (1,), "stem_width": 8, **DROPPED}
CUT: Config = small({"model": ModelConfig("resnet20_cifar", options=TINY)})


@pytest.fixture
def x64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def batch(seed: int, step: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng([seed, step])
    return {"image": rng.integers(0, 256, (32, 8, 8, 1), np.uint8), "label": rng.integers(0, 10, 32, np.int32)}


class SmallRun(Run):
    """Trains a net of one block, in float64 where that is the test's type."""

    def model(self, **norm: Any) -> nn.Module:
        kind: Any = np.float64 if jax.config.jax_enable_x64 else np.float32
        types: dict[str, Any] = {"dtype": kind, "param_dtype": kind, "norm": functools.partial(BatchNorm, **norm)}
        attention = functools.partial(CBAM, reduction=4)
        return ResNet((1,), BasicBlock, 10, attention, widths=(8,), stem="cifar", stem_width=8, **DROPPED, **types)


def run_with(seed: int, changes: Mapping[str, Any]) -> Run:
    return SmallRun(replace(CONFIG, {"seed": seed, **changes}), tuple("0123456789"), (8, 8, 1), 320)


def steps_of(step: Step, runs: Sequence[Run], layout: Layout, count: int) -> list[tuple[float, TrainState]]:
    """Loss and state of each run after some steps, each with images of its own."""
    state = step.enter([layout.put_state(run.fresh_state()) for run in runs])
    metrics = step.enter([layout.put(Metrics.zero()) for _ in runs])
    for number in range(count):
        state, metrics = step(state, metrics, [batch(run.config.seed, number) for run in runs])
    losses = [jax.device_get(sums).figures()["loss"] for sums in step.leave(metrics)]
    return list(zip(losses, jax.device_get(step.leave(state)), strict=True))


def check_together(seeds: Sequence[int], devices: int, used: int, count: int, changes: Any, near: float) -> None:
    """Compares steps together with those of each alone, relative to the largest value of each array, at least 0.001."""
    runs = [run_with(seed, changes) for seed in seeds]
    layout = Layout.of(runs[0].config, jax.devices()[:devices])
    step = TogetherStep.of(runs[0], layout, seeds)
    assert step.stacked.mesh.size == used
    step_of = seeded(runs[0], layout)
    for run, (loss, state) in zip(runs, steps_of(step, runs, layout, count), strict=True):
        ((expected, alone),) = steps_of(step_of([run.config.seed]), [run], layout, count)
        assert loss == pytest.approx(expected, rel=near)
        assert int(state.step) == count
        leaves = [jax.tree_util.tree_leaves_with_path(each) for each in (state, alone)]
        for (path, one), (_, other) in zip(*leaves, strict=True):
            difference, size = np.abs(one - other).max(), np.abs(other).max()
            assert difference <= near * max(size, 1e-3), (path, difference, size)


@pytest.mark.parametrize("changes", [MIXED, {"parallel.batch_norm": 4, "parallel.accumulate": 2}])
def test_one_step_together_is_that_of_each_alone_in_float32(changes: dict[str, Any]):
    check_together(SEEDS, 2, 2, 1, changes, 1e-5)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("seeds", "devices", "used"), [(SEEDS, 8, 4), (SEEDS[:3], 2, 1)])
def test_twenty_steps_together_are_those_of_each_alone_in_float64(seeds: tuple[int, ...], devices: int, used: int):
    check_together(seeds, devices, used, STEPS, {}, 1e-9)


def test_one_program_serves_all_seeds_and_takes_their_steps():
    layout = Layout.of(run_with(0, {}).config, jax.devices()[:2])
    step_of = seeded(run_with(0, {}), layout)
    for seed in SEEDS[1:3]:
        run = run_with(seed, {})
        given, expected = (steps_of(step, [run], layout, 1) for step in (step_of([seed]), training_step(run, layout)))
        assert given[0][0] == expected[0][0]
        chex.assert_trees_all_equal(given[0][1], expected[0][1])
    assert step_of([0]).program._cache_size() == 1


@pytest.fixture(scope="module")
def lone_runs(tmp_path_factory: pytest.TempPathFactory, _compile_once: None) -> dict[int, Path]:
    """The folders of the ordinary runs with seeds 0 and 1. Do not write there."""
    folders = {seed: tmp_path_factory.mktemp("lone") for seed in (0, 1)}
    for seed, workdir in folders.items():
        train(replace(CUT, {"seed": seed}), str(workdir))
    return folders


def cohort(folder: Path, asked: bool, config: Config = CUT, reached: Callable[[], bool] = lambda: False) -> list[int]:
    """Trains seeds 0 and 1; returns those that have come to their end."""
    workdirs = {seed: str(folder / f"seed_{seed}") for seed in (0, 1)}
    labels = {seed: f"seed {seed}" for seed in workdirs}
    return list(train_cohort(config, workdirs, asked, reached, labels))


def interrupted(monkeypatch: pytest.MonkeyPatch, folder: Path, asked: bool, seed: int, step: int) -> None:
    """Trains until the log of a step of a seed, which is not written any more."""

    def training(self: Report, at: int, told: dict[str, float]) -> None:
        if (at, self._label) == (step, f"seed {seed}"):
            raise KeyboardInterrupt
        original(self, at, told)

    original = Report.training
    with monkeypatch.context() as patched:
        patched.setattr(Report, "training", training)
        with pytest.raises(KeyboardInterrupt):
            cohort(folder, asked)


def test_seeds_in_turn_end_as_the_ordinary_runs_to_the_last_bit(
    lone_runs: dict[int, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert cohort(tmp_path, False) == [0, 1]
    for seed, folder in lone_runs.items():
        workdir = tmp_path / f"seed_{seed}"
        assert outcome(workdir) == outcome(folder)
        assert {path.name for path in workdir.iterdir()} == {path.name for path in folder.iterdir()}
        assert read_run(str(workdir)) == read_run(str(folder))
    told = capsys.readouterr().out.splitlines()
    assert [line.partition(": test loss")[0] for line in told] == [
        f"seed {seed}: step {step}/6" for seed in (0, 1) for step in (2, 4, 6)
    ]


@pytest.mark.parametrize("asked", [False, True])
def test_seeds_that_were_killed_go_on_and_end_as_the_unbroken_ones(
    asked: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lone_runs: dict[int, Path]
):
    unbroken = cohort(tmp_path / "unbroken", asked)
    interrupted(monkeypatch, tmp_path / "broken", asked, seed=1, step=4)
    assert checkpoint_steps(str(tmp_path / "broken" / "seed_1" / "checkpoints")) == [2]
    assert cohort(tmp_path / "broken", asked) == unbroken == [0, 1]
    for seed in (0, 1):
        broken, whole = (outcome(tmp_path / name / f"seed_{seed}") for name in ("broken", "unbroken"))
        assert broken == whole
        losses = [[line["loss"] for line in lines] for lines in (whole[1], figures(lone_runs[seed]))]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_seeds_together_go_on_each_from_its_newest_whole_step(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    interrupted(monkeypatch, tmp_path, True, seed=1, step=6)
    shutil.rmtree(tmp_path / "seed_0" / "checkpoints" / "4")
    capsys.readouterr()
    assert cohort(tmp_path, True) == [0, 1]
    resumed = [line for line in capsys.readouterr().out.splitlines() if "resumes" in line]
    assert [line.partition(" resumes ")[2] for line in resumed] == ["at step 2 of 6", "at step 4 of 6"]
    assert all(is_done(read_run(str(tmp_path / f"seed_{seed}")), str(tmp_path / f"seed_{seed}")) for seed in (0, 1))


@pytest.mark.parametrize(("asked", "saved"), [(False, {0: [3]}), (True, {0: [3], 1: [3]})])
def test_sigterm_saves_and_ends(asked: bool, saved: dict[int, list[int]], tmp_path: Path):
    calls = iter(range(100))
    assert cohort(tmp_path, asked, replace(CUT, {"evaluate_every_steps": 9}), lambda: next(calls) >= 3) == []
    folders = {seed: str(tmp_path / f"seed_{seed}" / "checkpoints") for seed in (0, 1)}
    assert {seed: steps[-1:] for seed, at in folders.items() if (steps := checkpoint_steps(at))} == saved


@pytest.mark.parametrize(
    ("together", "expected"), [(False, [[0], [1], [2], [3]]), (True, [[0, 1, 2, 3], [0, 2, 3], [2, 3]])]
)
def test_seeds_that_diverge_do_not_stop_the_others(
    together: bool,
    expected: list[list[int]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
):
    asked = []

    def lose_two(shared: Any, step: Any, workdirs: Mapping[int, str], *rest: Any) -> list[None]:
        asked.append(list(workdirs))
        for seed in (1, 0):
            if seed in workdirs:
                raise NotFiniteError(f"seed {seed}: not finite", seed)
        return [None]

    monkeypatch.setattr("train.ablation.seeds.train_seeds", lose_two)
    seeds = train_cohort(CUT, {seed: str(tmp_path / str(seed)) for seed in range(4)}, together, lambda: False, {})
    assert [next(seeds), next(seeds)] == [2, 3]
    assert sorted(capsys.readouterr().err.splitlines()) == ["seed 0: not finite", "seed 1: not finite"]
    with pytest.raises(NotFiniteError, match=r"seed [01]: not finite; seed [01]: not finite"):
        next(seeds)
    assert asked == expected


def test_a_run_of_another_duration_is_refused(lone_runs: dict[int, Path], tmp_path: Path):
    run = read_run(str(lone_runs[0]))
    assert is_done(run, str(lone_runs[0]))
    assert not is_done(run, str(tmp_path))
    longer = Run(replace(CUT, {"total_steps": 8}), run.class_names, run.image_shape, run.num_examples)
    with pytest.raises(UserError, match="is a run of 6 steps, not of 8: take another --workdir"):
        is_done(longer, str(lone_runs[0]))


@pytest.mark.parametrize(
    "changes", [{"parallel.engine": "pmap"}, {"parallel.shard_parameters": 2}, {"parallel.batch_norm": "device"}]
)
def test_what_several_seeds_cannot_have_is_named(changes: dict[str, Any], tmp_path: Path):
    with pytest.raises(UserError, match=f"several seeds need .*{next(iter(changes.values()))}"):
        cohort(tmp_path, True, replace(CUT, changes))


def test_seeds_train_in_turn_on_a_cpu(monkeypatch: pytest.MonkeyPatch):
    assert trains_together("auto") == (False, "on a CPU a convolution is 4 to 10 times slower under vmap")
    assert trains_together("yes")[0]
    assert not trains_together("no")[0]
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert trains_together("auto")[0]


def test_what_they_learnt_can_be_used(lone_runs: dict[int, Path]):
    model, variables, _ = load_run(str(lone_runs[0]))
    assert model.apply(variables, np.zeros((2, 8, 8, 1), np.float32), train=False).shape == (2, 10)
