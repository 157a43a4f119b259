"""The largest batch of a training step that fits on the chips of a pod."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from train.config import Config
from train.config.errors import UserError
from train.pods.compile import GIB, Pod

MOST_IMAGES = 2**20
"""Largest data.batch_size allowed."""
_BEYOND = 8
"""Factor of the first guess over a linear extrapolation of memory: near the limit the compiler trades time for memory,
so that 1.4 to 5 times as many images fit."""
_NEAR = 0.97
"""A batch counts as the largest from this share of one that does not fit."""
_BESIDE = 0.05
"""Share of a chip's memory reserved for the program and other unplanned memory if no compiled step measures it: up to
4.9 % with 64 images a chip (EPSANet-101)."""
_MORE_BESIDE = 0.01
"""Share of a chip's memory reserved for the growth of unplanned memory with the batch."""


def largest_batch(
    needed: Callable[[int], int], known: Mapping[int, int], limit: int, most: int, units: Sequence[int]
) -> int:
    """Finds a batch that fits on a chip while one larger by 3 % or one unit does not, by interpolation from above.

    If memory does not grow monotonically, an even larger batch may fit.

    Args:
      needed: returns the bytes of a batch.
      known: known bytes by batch, at least one entry.
      limit: available bytes.
      most: upper bound of the batch.
      units: a batch is a multiple of the first unit that is not larger than it.

    Returns:
      A batch that fits; 0 if none does.
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
    """Units of which the images per chip should be a multiple, in order of preference.

    Batch-norm groups within a chip come before groups across chips, and multiples of 8 before others.
    """
    norm = config.parallel.batch_norm
    group = norm if isinstance(norm, int) else 1
    on_chip, spread = (config.parallel.accumulate * size for size in (group, group // math.gcd(group, chips)))
    return [math.lcm(8, on_chip), on_chip, math.lcm(8, spread), spread]


def most_images(pod: Pod, config: Config, planned: int, needed: int | None) -> int:
    """Finds the most images per chip that fit by the compiler's memory plan, see `largest_batch`.

    Args:
      pod: the chips.
      config: settings of the step.
      planned: bytes that the step of the config needs without its program.
      needed: bytes that it needs in total, None if unknown.

    Raises:
      UserError: not even one image fits.
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
