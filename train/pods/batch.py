"""The largest batch of a training step that fits on the chips of a pod."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from train.config import Config
from train.config.errors import UserError
from train.pods.compile import GIB, Pod

MOST_IMAGES = 2**20
"""Of a step, see data.batch_size."""
_BEYOND = 8
"""How many times the images that would fit, if memory grew as they do, are tried first: near the limit the compiler
saves memory at the cost of time, so that 1.4 to 5 times as many do."""
_NEAR = 0.97
"""Share of a batch that does not fit from which a batch counts as the largest."""
_BESIDE = 0.05
"""Share of a chip's memory left for the program and what else is not planned, where no compiled step says it: with 64
images a chip up to 4.9 % (EPSANet-101)."""
_MORE_BESIDE = 0.01
"""Share of a chip's memory left for what that may grow by with the batch."""


def largest_batch(
    needed: Callable[[int], int], known: Mapping[int, int], limit: int, most: int, units: Sequence[int]
) -> int:
    """A batch that fits on a chip where one of 3 % or one unit more does not, by interpolation from above.

    Where memory does not grow steadily, a still larger one may fit.

    Args:
      needed: bytes that a batch needs.
      known: bytes by batch, of one at least.
      limit: bytes that there are.
      most: no batch is larger.
      units: of which a batch is a multiple: of the first that it can hold.

    Returns:
      A batch that is known to fit; 0 if none.
    """
    known = dict(known)
    while True:
        fits = max((batch for batch in known if known[batch] <= limit), default=0)
        fails = min((batch for batch in known if known[batch] > limit), default=most + 1)
        if fits >= _NEAR * fails:
            return fits
        if fails in known:
            in_line = fails * limit / known[fails]
            guess = min((max(fits, in_line) + fails) / 2, _NEAR * fails)
        else:
            guess = min(_BEYOND * fits * limit / max(1, known[fits]), most)
        unit = next((unit for unit in units if unit <= guess), units[-1])
        below = int(guess / unit) * unit
        batch = next((batch for batch in (below + unit, below) if fits < batch < fails), None)
        if batch is None:
            return fits
        known[batch] = needed(batch)


def batch_units(config: Config, chips: int) -> list[int]:
    """Of which the images a chip should be a multiple: of the first that they can hold.

    Whole groups of batch norm on a chip come before groups that chips share, and multiples of 8 before others.
    """
    norm = config.parallel.batch_norm
    group = norm if isinstance(norm, int) else 1
    on_chip, spread = (config.parallel.accumulate * size for size in (group, group // math.gcd(group, chips)))
    return [math.lcm(8, on_chip), on_chip, math.lcm(8, spread), spread]


def most_images(pod: Pod, config: Config, planned: int, needed: int | None) -> int:
    """The most images that fit on a chip, as the compiler plans its memory: see largest_batch.

    Args:
      planned: bytes that the step of the config needs beside its program.
      needed: bytes that it needs in all, None if that is not known.

    Raises:
      UserError: not one image fits.
    """

    def planned_bytes(images: int) -> int:
        size = pod.planned_bytes(pod.with_images(config, images))
        print(f"planned      {images} images a chip take {size / GIB:.2f} GiB", flush=True)
        return size

    chips, memory = len(pod.devices), pod.chip.memory_bytes
    if needed is None:
        limit = int((1 - _BESIDE) * memory)
    else:
        limit = int((1 - _MORE_BESIDE) * memory) - max(0, needed - planned)
        if needed <= memory:
            limit = max(limit, planned)
    known = {config.data.batch_size // chips: planned}
    images = largest_batch(planned_bytes, known, limit, MOST_IMAGES // chips, batch_units(config, chips))
    if not images:
        raise UserError(f"{config.model.name} does not fit on a chip of {pod.topology} with any batch")
    return images
