"""Several seeds of one run, in turn and together, end as each does alone."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from flax import linen as nn

from attnjax.attention import CBAM
from attnjax.layers import BatchNorm
from attnjax.models import BasicBlock, ResNet
from attnjax.training import Layout, TrainState
from tests.kinds import only_in_full
from tests.train.support import figures, outcome, replace, small
from tests.training.nets import float_type
from train import load_run, train
from train.ablation.seeds import Group, GroupTrainer, is_done, train_seeds, trains_together
from train.config import Config, ModelConfig
from train.config.errors import NotFiniteError, UserError
from train.runs.checkpoint import checkpoint_steps
from train.runs.record import read_run
from train.runs.report import Report
from train.runs.setup import Program, Trainer
from train.tasks.classification import CLASSIFICATION, Classification
from train.tasks.recipe import Run

SEEDS = (0, 3, 2**31 + 5, 7)
DROPPED: dict[str, Any] = {"dropout_rate": 0.1}
TINY = {"widths": (8,), "stage_sizes": (1,), "stem_width": 8, **DROPPED}
CONFIG: Config = small(
    {
        "data.batch_size": 32,
        "optimizer.learning_rate": 1e-4,
        "schedule.warmup": 0.0,
        "total_steps": 20,
        "ema_decay": 0.5,
    },
)
MIXED = {"data.mixup": 0.2, "data.cutmix": 1.0, "label_smoothing": 0.1}
CUT: Config = small({"model": ModelConfig("resnet20_cifar", options=TINY)})


@pytest.fixture
def x64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def batch(seed: int, step: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng([seed, step])
    return {"image": rng.integers(0, 256, (32, 8, 8, 1), np.uint8), "label": rng.integers(0, 10, 32, np.int32)}


class SmallTask(Classification):
    """Trains a net of one block, in float64 where that is the test's type."""

    def model(self, run: Run, norm: Mapping[str, Any] | None = None) -> nn.Module:
        kind = float_type()
        types: dict[str, Any] = {"dtype": kind, "param_dtype": kind, "norm": partial(BatchNorm, **(norm or {}))}
        attention = partial(CBAM, reduction=4)
        return ResNet((1,), BasicBlock, 10, attention, widths=(8,), stem="cifar", stem_width=8, **DROPPED, **types)


@dataclasses.dataclass(frozen=True)
class Beginning:
    """A session of a run at its first step, in no folder."""

    setup: Any
    run: Run

    @property
    def restored(self) -> Any:
        return SimpleNamespace(state=self.setup.program.fresh_state(self.run.config.seed))

    def sums(self) -> Any:
        return self.setup.program.zero_sums


def beginnings(seeds: Sequence[int], devices: int, changes: Mapping[str, Any]) -> list[Beginning]:
    layout, sessions = Layout.create(jax.devices()[:devices]), []
    for seed in seeds:
        run = Run(replace(CONFIG, {"seed": seed, **changes}), tuple("0123456789"), (8, 8, 1), 320)
        setup: Any = SimpleNamespace(program=Program.create(SmallTask(), run, layout))
        sessions.append(Beginning(setup, run))
    return sessions


def alone(session: Beginning, step: Any, count: int) -> tuple[float, TrainState]:
    """Loss and state of a run after some steps of its own."""
    seed = session.run.config.seed
    trainer = Trainer(step, session.setup.program, seed, session.restored.state, session.sums())
    for number in range(count):
        trainer.step(batch(seed, number))
    return float(trainer.sums()["loss"]), jax.device_get(trainer.state())


def check_group(seeds: Sequence[int], devices: int, used: int, count: int, changes: Any, near: float) -> None:
    """Compares steps together with those of each alone, relative to the largest value of each array, at least 0.001."""
    sessions = beginnings(seeds, devices, changes)
    group = Group.create(sessions[0].setup, sessions)
    assert group.stacked.mesh.size == used
    for number in range(count):
        group.step([batch(seed, number) for seed in seeds])
    step = sessions[0].setup.program.compiled()
    for number, session in enumerate(sessions):
        trainer = GroupTrainer(group, number)
        loss, state = alone(session, step, count)
        assert float(trainer.sums()["loss"]) == pytest.approx(loss, rel=near)
        together = jax.device_get(trainer.state())
        assert int(together.step) == count
        leaves = [jax.tree_util.tree_leaves_with_path(each) for each in (together, state)]
        for (path, one), (_, other) in zip(*leaves, strict=True):
            difference, size = np.abs(one - other).max(), np.abs(other).max()
            assert difference <= near * max(size, 1e-3), (path, difference, size)


@pytest.mark.full
@pytest.mark.parametrize("changes", [MIXED, {"parallel.batch_norm": 4, "parallel.accumulate": 2}])
def test_one_step_together_is_that_of_each_alone_in_float32(changes: dict[str, Any]):
    check_group(SEEDS, 2, 2, 1, changes, 1e-5)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("seeds", "devices", "used"), [(SEEDS, 8, 4), only_in_full(SEEDS[:3], 2, 1)])
def test_twenty_steps_together_are_those_of_each_alone_in_float64(seeds: tuple[int, ...], devices: int, used: int):
    check_group(seeds, devices, used, 20, {}, 1e-9)


def test_sums_of_one_run_of_a_group_begin_anew_alone():
    sessions = beginnings(SEEDS[:2], 2, {})
    group = Group.create(sessions[0].setup, sessions)
    group.step([batch(seed, 0) for seed in SEEDS[:2]])
    one, two = (GroupTrainer(group, number) for number in range(2))
    one.reset()
    assert (int(one.sums()["count"]), int(two.sums()["count"])) == (0, 32)


@pytest.fixture(scope="module")
def lone_runs(tmp_path_factory: pytest.TempPathFactory, _compile_once: None) -> dict[int, Path]:
    """The folders of the ordinary runs with seeds 0 and 1. Do not write there."""
    folders = {seed: tmp_path_factory.mktemp("lone") for seed in (0, 1)}
    for seed, workdir in folders.items():
        train(replace(CUT, {"seed": seed}), str(workdir))
    return folders


def train_both(
    folder: Path, asked: bool, config: Config = CUT, preempted: Callable[[], bool] = lambda: False
) -> list[int]:
    """Trains seeds 0 and 1; returns those that have come to their end."""
    workdirs = {seed: str(folder / f"seed_{seed}") for seed in (0, 1)}
    labels = {seed: f"seed {seed}" for seed in workdirs}
    return list(train_seeds(config, CLASSIFICATION, workdirs, asked, preempted, labels))


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
            train_both(folder, asked)


def test_seeds_in_turn_end_as_the_ordinary_runs_to_the_last_bit(
    lone_runs: dict[int, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert train_both(tmp_path, False) == [0, 1]
    for seed, folder in lone_runs.items():
        workdir = tmp_path / f"seed_{seed}"
        assert outcome(workdir) == outcome(folder)
        assert {path.name for path in workdir.iterdir()} == {path.name for path in folder.iterdir()}
        assert read_run(str(workdir)) == read_run(str(folder))
    told = capsys.readouterr().out.splitlines()
    assert [line.partition(": test loss")[0] for line in told] == [
        f"seed {seed}: step {step}/6" for seed in (0, 1) for step in (2, 4, 6)
    ]


@pytest.mark.full
@pytest.mark.parametrize("asked", [False, True])
def test_seeds_that_were_killed_go_on_and_end_as_the_unbroken_ones(
    asked: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lone_runs: dict[int, Path]
):
    unbroken = train_both(tmp_path / "unbroken", asked)
    interrupted(monkeypatch, tmp_path / "broken", asked, seed=1, step=4)
    assert checkpoint_steps(str(tmp_path / "broken" / "seed_1" / "checkpoints")) == [2]
    assert train_both(tmp_path / "broken", asked) == unbroken == [0, 1]
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
    assert train_both(tmp_path, True) == [0, 1]
    resumed = [line for line in capsys.readouterr().out.splitlines() if "resumes" in line]
    assert [line.partition(" resumes ")[2] for line in resumed] == ["at step 2 of 6", "at step 4 of 6"]
    assert all(is_done(read_run(str(tmp_path / f"seed_{seed}")), str(tmp_path / f"seed_{seed}")) for seed in (0, 1))


@pytest.mark.parametrize(("asked", "saved"), [(False, {0: [3]}), (True, {0: [3], 1: [3]})])
def test_sigterm_saves_and_ends(asked: bool, saved: dict[int, list[int]], tmp_path: Path):
    calls = iter(range(100))
    assert train_both(tmp_path, asked, replace(CUT, {"evaluate_every_steps": 9}), lambda: next(calls) >= 3) == []
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

    def train_group(setup: Any, workdirs: Mapping[int, str], *rest: Any) -> bool:
        asked.append(list(workdirs))
        for seed in (1, 0):
            if seed in workdirs:
                raise NotFiniteError(f"seed {seed}: not finite", seed)
        return True

    def train_run(setup: Any, run: Run, step: Any, workdir: str, *rest: Any) -> bool:
        return train_group(setup, {run.config.seed: workdir})

    monkeypatch.setattr("train.ablation.seeds.train_group", train_group)
    monkeypatch.setattr("train.ablation.seeds.train_run", train_run)
    workdirs = {seed: str(tmp_path / str(seed)) for seed in range(4)}
    seeds = train_seeds(CUT, CLASSIFICATION, workdirs, together, lambda: False, dict.fromkeys(range(4), ""))
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
    with pytest.raises(UserError, match="is a run of 6 steps, not of 8: choose another --workdir"):
        is_done(longer, str(lone_runs[0]))


@pytest.mark.parametrize(
    "changes", [{"parallel.engine": "pmap"}, {"parallel.shard_parameters": 2}, {"parallel.batch_norm": "device"}]
)
def test_what_several_seeds_cannot_have_is_named(changes: dict[str, Any], tmp_path: Path):
    with pytest.raises(UserError, match=f"several seeds require .*{next(iter(changes.values()))}"):
        train_both(tmp_path, True, replace(CUT, changes))


def test_seeds_train_in_turn_on_a_cpu(monkeypatch: pytest.MonkeyPatch):
    assert trains_together("auto") == (False, "on a CPU a convolution is 4 to 10 times slower under vmap")
    assert trains_together("yes")[0]
    assert not trains_together("no")[0]
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert trains_together("auto")[0]


def test_what_they_learnt_can_be_used(lone_runs: dict[int, Path]):
    model, variables, _ = load_run(str(lone_runs[0]))
    assert model.apply(variables, np.zeros((2, 8, 8, 1), np.float32), train=False).shape == (2, 10)
