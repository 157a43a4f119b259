"""Several seeds of one run: one after the other with one program, or all together in one vmapped step."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from train.config import Config
from train.config.errors import NotFiniteError, UserError
from train.layout import Layout
from train.parallel import JitStep, norm_options
from train.runs.checkpoint import checkpoint_steps, newest_whole
from train.runs.loop import train_seeds
from train.runs.preemption import Reached
from train.runs.record import Run, check_claim, checkpoint_folder, read_run
from train.runs.report import is_finished
from train.runs.setup import Shared
from train.step import train_step

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


def train_cohort(
    config: Config, workdirs: Mapping[int, str], together: bool, reached: Reached, labels: Mapping[int, str]
) -> Iterator[int]:
    """Trains, or resumes, a run for each seed to its end.

    Each ends as `train.runs.loop.train` with that seed does: to the last bit in turn, and together but for rounding,
    since the program is another.

    Args:
      config: the settings of all but for the seed.
      workdirs: the folder of the run with each seed.
      together: whether those that stand at the same step go on together. They take as many devices as divide their
        number, and each device some seeds. Otherwise they share one program, which divides a batch among the devices
        as usual.
      reached: says whether to end now.
      labels: what the lines of each seed begin with.

    Yields:
      The seeds as they come to their end. Where `reached` says so, not all come.

    Raises:
      UserError: the settings do not allow it, or a folder belongs to another run.
      NotFiniteError: a seed was lost, which was told at once; the others have come to their end.
    """
    parallel = config.parallel
    if parallel.engine != "jit" or parallel.shard_parameters != 1 or parallel.batch_norm == "device":
        raise UserError(
            "several seeds need parallel.engine='jit', parallel.shard_parameters=1 and 'global' or a number for "
            f"parallel.batch_norm: got {parallel.engine!r}, {parallel.shard_parameters} and {parallel.batch_norm!r}"
        )
    shared = Shared.of(config)
    in_turn = seeded(shared.run, shared.layout)
    left, lost = dict(workdirs), []
    while left:
        folders = _at_one_step(left) if together else dict([next(iter(left.items()))])
        seeds = list(folders)
        step = TogetherStep.of(shared.run, shared.layout, seeds) if len(seeds) > 1 else in_turn(seeds)
        try:
            results = train_seeds(shared, step, folders, reached, labels)
        except NotFiniteError as error:
            print(error, file=sys.stderr, flush=True)
            lost.append(error)
            del left[error.seed]  # those that went with it go on without it
            continue
        if results is None:
            return
        for seed in seeds:
            del left[seed]
            yield seed
    if lost:
        raise NotFiniteError("; ".join(map(str, lost)), lost[0].seed)


def _at_one_step(workdirs: Mapping[int, str]) -> dict[int, str]:
    """Those whose newest whole checkpoint is of the same step as that of the first."""
    steps = {seed: newest_whole(checkpoint_folder(workdir))[0] for seed, workdir in workdirs.items()}
    first = next(iter(steps.values()))
    return {seed: workdir for seed, workdir in workdirs.items() if steps[seed] == first}


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


def _seeded_step(run: Run, layout: Layout) -> Callable[..., Any]:
    model = run.model(**norm_options(run.config, layout.num_devices))
    step = partial(train_step, model, run.optimizer(), run.config)
    return lambda state, metrics, batch, seed: step(state, metrics, batch, seed=seed)


def seeded(run: Run, layout: Layout) -> Callable[[Sequence[int]], JitStep]:
    """The training step of a run with any seed: one program for all of them."""
    whole = layout.replicated
    program = jax.jit(
        _seeded_step(run, layout),
        in_shardings=(whole, whole, layout.split, whole),
        out_shardings=whole,
        donate_argnums=(0, 1),
    )

    def of(seeds: Sequence[int]) -> JitStep:
        (seed,) = seeds
        return JitStep(program, layout, (np.uint32(seed),))

    return of


@dataclasses.dataclass(frozen=True)
class TogetherStep:
    """The steps of several seeds as one: states, metrics and batches are stacked along a new first axis.

    Attributes:
      program: the vmapped step.
      layout: where the arrays of a single run lie.
      stacked: where those of all lie: the new axis divided among the devices.
      seeds: uint32 (s,).
    """

    program: Callable[..., Any]
    layout: Layout
    stacked: NamedSharding
    seeds: jax.Array

    @classmethod
    def of(cls, run: Run, layout: Layout, seeds: Sequence[int]) -> TogetherStep:
        """The step of a run with these seeds, on as many devices as divide their number."""
        devices = layout.mesh.devices.flatten()
        count = max(n for n in range(1, len(devices) + 1) if len(seeds) % n == 0)
        mesh, spec = Mesh(devices[:count], (_AXIS,)), PartitionSpec(_AXIS)
        many = jax.vmap(_seeded_step(run, layout))
        on_each = jax.shard_map(many, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
        stacked = NamedSharding(mesh, spec)
        seeds_on_devices = jax.device_put(np.asarray(seeds, np.uint32), stacked)
        return cls(jax.jit(on_each, donate_argnums=(0, 1)), layout, stacked, seeds_on_devices)

    def enter(self, trees: Sequence[Any]) -> Any:
        def stack(*leaves: jax.Array) -> jax.Array:
            value = np.stack([np.asarray(jax.device_get(leaf)) for leaf in leaves])
            for leaf in leaves:
                leaf.delete()
            return jax.device_put(value, self.stacked)

        return jax.tree.map(stack, *trees)

    def __call__(self, state: Any, metrics: Any, batches: Sequence[Mapping[str, np.ndarray]]) -> tuple[Any, Any]:
        batch = {name: np.stack([each[name] for each in batches]) for name in batches[0]}
        return self.program(state, metrics, jax.device_put(batch, self.stacked), self.seeds)

    def leave(self, tree: Any) -> list[Any]:
        fetched = jax.device_get(tree)
        return [self.layout.put(jax.tree.map(lambda leaf, n=n: leaf[n], fetched)) for n in range(len(self.seeds))]
