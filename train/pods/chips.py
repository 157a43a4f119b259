"""What a TPU chip can do at most, and the shapes that its pods have."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

from train.config.errors import UserError


@dataclasses.dataclass(frozen=True)
class Chip:
    """Published peak figures of one chip.

    Attributes:
      memory: GiB of HBM that the compiler lets a program take; the rest of what is published is reserved.
      flops: bfloat16 operations a second.
      memory_bandwidth: bytes a second from and to HBM.
      network_bandwidth: bytes a second that a chip sends over all its links to its neighbours.
      dimensions: axes of the torus that the chips form.
      options: what the topology needs to be told besides its name.
    """

    memory: float
    flops: float
    memory_bandwidth: float
    network_bandwidth: float
    dimensions: int
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def memory_bytes(self) -> int:
        """HBM in bytes."""
        return int(self.memory * 2**30)


CHIPS = {
    # cloud.google.com/tpu/docs/v4: 32 GiB, 275 TFLOPS, 1228 GB/s, 2400 Gbit/s; megacore makes one device of two cores
    "v4": Chip(30.75, 275e12, 1228e9, 300e9, 3, {"chip_config_name": "megacore"}),
    # cloud.google.com/tpu/docs/v5e: 16 GB, 197 TFLOPS, 819 GB/s, 1600 Gbit/s
    "v5e": Chip(15.75, 197e12, 819e9, 200e9, 2),
    # cloud.google.com/tpu/docs/v5p: 95 GB, 459 TFLOPS, 2765 GB/s, 4800 Gbit/s
    "v5p": Chip(95.73, 459e12, 2765e9, 600e9, 3),
    # cloud.google.com/tpu/docs/v6e: 32 GB, 918 TFLOPS, 1640 GB/s, 3200 Gbit/s
    "v6e": Chip(31.24, 918e12, 1640e9, 400e9, 2),
}
"""By the names that topologies begin with."""

_EXAMPLES = "v5e:4x4, v5e:16x16, v6e:16x16, v4:4x4x8, v5p:4x4x8"


def chip_of(topology: str) -> Chip:
    """The chip of a topology such as v5e:16x16.

    Raises:
      UserError: there is no such chip, or its pods have no such shape.
    """
    name, _, shape = topology.partition(":")
    chip = CHIPS.get(name)
    if chip is None or not re.fullmatch(rf"[1-9]\d*(x[1-9]\d*){{{chip.dimensions - 1}}}", shape):
        raise wrong_topology(topology)
    return chip


def wrong_topology(topology: str) -> UserError:
    """The error that names the valid forms."""
    forms = " or ".join(
        f"{'|'.join(name for name, chip in CHIPS.items() if chip.dimensions == axes)}:{'x'.join('ABC'[:axes])}"
        for axes in (2, 3)
    )
    return UserError(f"topology={topology!r} must be {forms}, even sides, such as {_EXAMPLES}")
