"""Several seeds of one run, trained sequentially with one program or together in one vmapped step."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from attnjax.training import Sums, TrainState, seeded
from train.config import Config
from train.config.errors import NotFiniteError, UserError
from train.runs.checkpoint import checkpoint_steps, newest_intact
from train.runs.loop import Loop, train_run
from train.runs.preemption import Preempted
from train.runs.record import check_claim, checkpoint_folder, read_run
from train.runs.report import Speed, is_finished
from train.runs.session import Session, open_session
from train.runs.setup import Setup
from train.tasks.recipe import Run
from train.tasks.task import Task

Together = Literal["auto", "yes", "no"]

_AXIS = "seed"


def trains_together(asked: Together) -> tuple[bool, str]:
    """Whether to train seeds together, and the reason."""
    if asked != "auto":
        return asked == "yes", f"--together {asked}"
    backend = jax.default_backend()
    if backend == "cpu":
        return False, "on a CPU a convolution is 4 to 10 times slower under vmap"
    return True, f"on a {backend.upper()} one vmapped step uses the device better than single steps"


def check_seeds(config: Config) -> None:
    """Checks whether settings allow several seeds.

    Raises:
      UserError: they do not.
    """
    parallel = config.parallel
    if parallel.engine != "jit" or parallel.shard_parameters != 1 or parallel.batch_norm == "device":
        raise UserError(
            "several seeds require parallel.engine='jit', parallel.shard_parameters=1 and 'global' or a number for "
            f"parallel.batch_norm: got {parallel.engine!r}, {parallel.shard_parameters} and {parallel.batch_norm!r}"
        )


def train_seeds(
    config: Config,
    task: Task,
    workdirs: Mapping[int, str],
    together: bool,
    preempted: Preempted,
    labels: Mapping[int, str],
) -> Iterator[int]:
    """Trains a run for each seed to its end, resuming those that were interrupted.

    Trained sequentially, each result equals that of `train.runs.loop.train` with the same seed bit for bit; trained
    together, up to rounding, since the program differs.

    Args:
      config: the settings; its seed is replaced.
      task: the task to train.
      workdirs: folder of the run, by seed.
      together: whether to train seeds that are at the same step together, distributed over as many devices as divide
        their number. Otherwise they run one after the other with one program, which divides each batch among the
        devices.
      preempted: returns whether to save and stop now.
      labels: prefix of the log lines, by seed.

    Yields:
      Each seed when its run has finished; stops early if preempted.

    Raises:
      UserError: the settings do not allow several seeds, or a folder belongs to another run.
      NotFiniteError: a seed diverged, which was printed when it happened; the other seeds have finished.
    """
    check_seeds(config)
    setup = Setup.create(config, task)
    step = setup.program.compiled()
    remaining, diverged = dict(workdirs), []
    while remaining:
        folders = _at_one_step(remaining) if together else dict([next(iter(remaining.items()))])
        try:
            if len(folders) > 1:
                done = train_group(setup, folders, preempted, labels)
            else:
                ((seed, workdir),) = folders.items()
                run = setup.run.with_seed(seed)
                done = train_run(setup, run, step, workdir, preempted, labels[seed]) is not None
        except NotFiniteError as error:
            print(error, file=sys.stderr, flush=True)
            diverged.append(error)
            del remaining[error.seed]  # seeds that trained with it continue without it
            continue
        if not done:
            return
        for seed in folders:
            del remaining[seed]
            yield seed
    if diverged:
        raise NotFiniteError("; ".join(map(str, diverged)), diverged[0].seed)


def _at_one_step(workdirs: Mapping[int, str]) -> dict[int, str]:
    """The seeds whose newest intact checkpoint is at the same step as that of the first seed."""
    steps = {seed: newest_intact(checkpoint_folder(workdir))[0] for seed, workdir in workdirs.items()}
    first = next(iter(steps.values()))
    return {seed: workdir for seed, workdir in workdirs.items() if steps[seed] == first}


def train_group(setup: Setup, workdirs: Mapping[int, str], preempted: Preempted, labels: Mapping[int, str]) -> bool:
    """Trains runs that differ only in their seed and are at the same step, in one vmapped step.

    Args:
      setup: setup of all runs.
      workdirs: folder of the run, by seed.
      preempted: returns whether to save and stop now.
      labels: prefix of the log lines, by seed.

    Returns:
      Whether the runs have finished.

    Raises:
      UserError: a folder is not usable, or a loss is not finite.
    """
    with contextlib.ExitStack() as stack:
        sessions = [
            stack.enter_context(open_session(setup, setup.run.with_seed(seed), workdir, labels[seed]))
            for seed, workdir in workdirs.items()
        ]
        if all(session.finished and session.start == session.run.total_steps for session in sessions):
            return True
        group = Group.create(setup, sessions)
        loops = [
            Loop(session, GroupTrainer(group, number), preempted, bar=not number)
            for number, session in enumerate(sessions)
        ]
        start, total = sessions[0].start, sessions[0].run.total_steps
        batches = [session.batches() for session in sessions]
        speed = Speed(len(loops) * setup.run.config.data.batch_size, start)
        for step in range(start, total + 1):
            stop = preempted()
            for loop in loops:
                if loop.saves(step, stop):
                    loop.sums()  # a run that has diverged stops before the others save this step
            active = [loop.before(step, stop) for loop in loops]
            if not all(active):
                for loop, is_active in zip(loops, active, strict=True):
                    if is_active:
                        loop.stop(step)
                break
            if any(loop.saved for loop in loops):
                speed.restart(step)
            group.step([next(each) for each in batches])
            for loop in loops:
                loop.after(step, speed)
        return all(loop.evaluation is not None for loop in loops)


class Group:
    """States and sums of several runs, stacked along a new first axis, and their vmapped step.

    Args:
      step: maps stacked states, sums, batches and seeds to stacked states and sums.
      stacked: sharding of the stacked arrays, the new axis divided among the devices.
      setup: setup of all runs.
      sessions: one open session for each run.
    """

    def __init__(
        self, step: Callable[..., Any], stacked: NamedSharding, setup: Setup, sessions: Sequence[Session]
    ) -> None:
        self.stacked, self._step = stacked, step
        self._layout, self._zero = setup.program.layout, setup.program.zero_sums
        self._seeds = jax.device_put(np.asarray([session.run.config.seed for session in sessions], np.uint32), stacked)
        self._state = self._stack([session.restored.state for session in sessions])
        self._sums = self._stack([self._layout.put(session.sums()) for session in sessions])

    @classmethod
    def create(cls, setup: Setup, sessions: Sequence[Session]) -> Group:
        """Creates the group on as many devices as divide the number of runs."""
        devices = setup.program.layout.mesh.devices.flatten()
        count = max(n for n in range(1, len(devices) + 1) if len(sessions) % n == 0)
        mesh, spec = Mesh(devices[:count], (_AXIS,)), PartitionSpec(_AXIS)
        many = jax.vmap(seeded(setup.program.step))
        on_each = jax.shard_map(many, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
        return cls(jax.jit(on_each, donate_argnums=(0, 1)), NamedSharding(mesh, spec), setup, sessions)

    def _stack(self, trees: Sequence[Any]) -> Any:
        def stack(*leaves: jax.Array) -> jax.Array:
            value = np.stack([np.asarray(jax.device_get(leaf)) for leaf in leaves])
            for leaf in leaves:
                leaf.delete()
            return jax.device_put(value, self.stacked)

        return jax.tree.map(stack, *trees)

    def step(self, batches: Sequence[Mapping[str, np.ndarray]]) -> None:
        """Takes a step of every run, on one batch each."""
        batch = {name: np.stack([each[name] for each in batches]) for name in batches[0]}
        self._state, self._sums = self._step(self._state, self._sums, jax.device_put(batch, self.stacked), self._seeds)

    def state(self, number: int) -> TrainState:
        """The state of one run, sharded as its layout says."""
        return self._layout.put(jax.device_get(jax.tree.map(lambda leaf: leaf[number], self._state)))

    def sums(self, number: int) -> Sums:
        """The sums of one run, on the host."""
        return jax.device_get(jax.tree.map(lambda leaf: leaf[number], self._sums))

    def reset(self, number: int) -> None:
        """Sets the sums of one run to zero."""
        self._sums = jax.tree.map(lambda leaf, zero: leaf.at[number].set(zero), self._sums, self._zero)


@dataclasses.dataclass(frozen=True)
class GroupTrainer:
    """One run of a group, with the interface of `train.runs.setup.Trainer`."""

    group: Group
    number: int

    def state(self) -> TrainState:
        return self.group.state(self.number)

    def sums(self) -> Sums:
        return self.group.sums(self.number)

    def reset(self) -> None:
        self.group.reset(self.number)


def is_done(run: Run, workdir: str) -> bool:
    """Whether a folder holds the finished run.

    Raises:
      UserError: it holds another run, or one with another number of steps.
    """
    check_claim(run, workdir)
    if not checkpoint_steps(checkpoint_folder(workdir)):
        return False
    if (steps := read_run(workdir).total_steps) != run.total_steps:
        raise UserError(f"{workdir} is a run of {steps} steps, not of {run.total_steps}: choose another --workdir")
    return is_finished(workdir, run.total_steps)
