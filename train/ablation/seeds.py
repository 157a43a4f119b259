"""Several seeds of one run: one after the other with one program, or all together in one vmapped step."""

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
from train.runs.loop import Loop, Speed, train_run
from train.runs.preemption import Preempted
from train.runs.record import check_claim, checkpoint_folder, read_run
from train.runs.report import is_finished
from train.runs.session import Session, open_session
from train.runs.setup import Setup
from train.tasks.run import Run

Together = Literal["auto", "yes", "no"]

_AXIS = "seed"


def trains_together(asked: Together) -> tuple[bool, str]:
    """Whether seeds train together, and why."""
    if asked != "auto":
        return asked == "yes", f"--together {asked}"
    backend = jax.default_backend()
    if backend == "cpu":
        return False, "on a CPU a convolution is 4 to 10 times slower under vmap"
    return True, f"on a {backend.upper()} one vmapped step of all fills the device better than theirs in turn"


def train_seeds(
    config: Config, workdirs: Mapping[int, str], together: bool, preempted: Preempted, labels: Mapping[int, str]
) -> Iterator[int]:
    """Trains, or resumes, a run for each seed to its end.

    Each ends as `train.runs.loop.train` with that seed does: to the last bit in turn, and together but for rounding,
    since the program is another.

    Args:
      config: the settings of all but for the seed.
      workdirs: the folder of the run with each seed.
      together: whether those that are at the same step go on together. They take as many devices as divide their
        number, and each device some seeds. Otherwise they share one program, which divides a batch among the devices
        as usual.
      preempted: says whether to end now.
      labels: what the lines of each seed begin with.

    Yields:
      The seeds as they come to their end. Where `preempted` says so, not all come.

    Raises:
      UserError: the settings do not allow it, or a folder belongs to another run.
      NotFiniteError: a seed diverged, which was said at once; the others have come to their end.
    """
    parallel = config.parallel
    if parallel.engine != "jit" or parallel.shard_parameters != 1 or parallel.batch_norm == "device":
        raise UserError(
            "several seeds need parallel.engine='jit', parallel.shard_parameters=1 and 'global' or a number for "
            f"parallel.batch_norm: got {parallel.engine!r}, {parallel.shard_parameters} and {parallel.batch_norm!r}"
        )
    setup = Setup.create(config)
    step = setup.program.compiled()
    left, diverged = dict(workdirs), []
    while left:
        folders = _at_one_step(left) if together else dict([next(iter(left.items()))])
        try:
            if len(folders) > 1:
                done = train_group(setup, folders, preempted, labels)
            else:
                ((seed, workdir),) = folders.items()
                done = train_run(setup.with_seed(seed), step, workdir, preempted, labels[seed]) is not None
        except NotFiniteError as error:
            print(error, file=sys.stderr, flush=True)
            diverged.append(error)
            del left[error.seed]  # those that trained with it go on without it
            continue
        if not done:
            return
        for seed in folders:
            del left[seed]
            yield seed
    if diverged:
        raise NotFiniteError("; ".join(map(str, diverged)), diverged[0].seed)


def _at_one_step(workdirs: Mapping[int, str]) -> dict[int, str]:
    """Those whose newest whole checkpoint is of the same step as that of the first."""
    steps = {seed: newest_intact(checkpoint_folder(workdir))[0] for seed, workdir in workdirs.items()}
    first = next(iter(steps.values()))
    return {seed: workdir for seed, workdir in workdirs.items() if steps[seed] == first}


def train_group(setup: Setup, workdirs: Mapping[int, str], preempted: Preempted, labels: Mapping[int, str]) -> bool:
    """Trains runs that differ in their seed alone in one vmapped step; all are at the same step.

    Args:
      setup: of all.
      workdirs: the folder of the run with each seed.
      preempted: says whether to end now.
      labels: what the lines of each seed begin with.

    Returns:
      Whether they have come to their end.

    Raises:
      UserError: a folder does not allow it, or a loss is no longer finite.
    """
    with contextlib.ExitStack() as stack:
        sessions = [
            stack.enter_context(open_session(setup.with_seed(seed), workdir, labels[seed]))
            for seed, workdir in workdirs.items()
        ]
        if all(session.finished and session.start == session.run.total_steps for session in sessions):
            return True
        group = Group.create(setup, sessions)
        loops = [Loop(session, seat, preempted, bar=not number) for number, (session, seat) in enumerate(group.seats)]
        start, total = sessions[0].start, sessions[0].run.total_steps
        batches = [session.batches() for session in sessions]
        speed = Speed(len(loops) * setup.run.config.data.batch_size, start)
        for step in range(start, total + 1):
            going = [loop.before(step) for loop in loops]
            if not all(going):
                for loop, goes in zip(loops, going, strict=True):
                    if goes:
                        loop.stop(step)
                break
            if any(loop.saved for loop in loops):
                speed.restart(step)
            group.take([next(each) for each in batches])
            for loop in loops:
                loop.after(step, speed)
        return all(loop.evaluation is not None for loop in loops)


class Group:
    """The states and sums of several runs, stacked along a new first axis, and the vmapped step of all of them.

    Args:
      step: takes the states, sums and batches of all, and their seeds.
      stacked: where the stacked arrays lie: the new axis divided among the devices.
      setup: of all runs.
      sessions: one for each.
    """

    def __init__(
        self, step: Callable[..., Any], stacked: NamedSharding, setup: Setup, sessions: Sequence[Session]
    ) -> None:
        self.stacked, self._step, self._layout, self._zero = (
            stacked,
            step,
            setup.program.layout,
            setup.program.zero_sums,
        )
        self._seeds = jax.device_put(np.asarray([session.run.config.seed for session in sessions], np.uint32), stacked)
        self._state = self._stack([session.restored.state for session in sessions])
        self._sums = self._stack([self._layout.put(session.sums()) for session in sessions])
        self.seats = [(session, Seat(self, number)) for number, session in enumerate(sessions)]

    @classmethod
    def create(cls, setup: Setup, sessions: Sequence[Session]) -> Group:
        """The group on as many devices as divide its number of runs."""
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

    def take(self, batches: Sequence[Mapping[str, np.ndarray]]) -> None:
        """Takes a step of all runs."""
        batch = {name: np.stack([each[name] for each in batches]) for name in batches[0]}
        self._state, self._sums = self._step(self._state, self._sums, jax.device_put(batch, self.stacked), self._seeds)

    def state(self, number: int) -> TrainState:
        """The state of one run, as its layout says."""
        return self._layout.put(jax.tree.map(lambda leaf: np.asarray(leaf[number]), self._state))

    def sums(self, number: int) -> Sums:
        """The sums of one run, on the host."""
        return jax.tree.map(lambda leaf: np.asarray(leaf[number]), self._sums)

    def reset(self, number: int) -> None:
        """Begins the sums of one run anew."""
        self._sums = jax.tree.map(lambda leaf, zero: leaf.at[number].set(zero), self._sums, self._zero)


@dataclasses.dataclass(frozen=True)
class Seat:
    """One run of a group, to its loop: see `train.runs.loop.Trainer`."""

    group: Group
    number: int

    def state(self) -> TrainState:
        return self.group.state(self.number)

    def sums(self) -> Sums:
        return self.group.sums(self.number)

    def reset(self) -> None:
        self.group.reset(self.number)


def is_done(run: Run, workdir: str) -> bool:
    """Whether a folder holds a run, come to its end.

    Raises:
      UserError: it holds another run, or one of another duration.
    """
    check_claim(run, workdir)
    if not checkpoint_steps(checkpoint_folder(workdir)):
        return False
    if (steps := read_run(workdir).total_steps) != run.total_steps:
        raise UserError(f"{workdir} is a run of {steps} steps, not of {run.total_steps}: take another --workdir")
    return is_finished(workdir, run.total_steps)
