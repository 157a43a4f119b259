"""Peak figures of TPU chips, and the topologies of their pods."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

from train.config.errors import UserError


@dataclasses.dataclass(frozen=True)
class Chip:
    """Published peak figures of one chip.

    Attributes:
      memory: GiB of HBM available to a program; the rest of the published size is reserved.
      flops: bfloat16 operations per second.
      memory_bandwidth: bytes per second from and to HBM.
      network_bandwidth: bytes per second that a chip sends over all its links.
      dimensions: number of axes of the torus.
      options: further options of the topology.
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
"""Chips by the prefix of their topologies."""

_EXAMPLES = "v5e:4x4, v5e:16x16, v6e:16x16, v4:4x4x8, v5p:4x4x8"


def chip_of(topology: str) -> Chip:
    """The chip of a topology such as v5e:16x16.

    Raises:
      UserError: the chip is unknown, or its pods have no such shape.
    """
    name, _, shape = topology.partition(":")
    chip = CHIPS.get(name)
    if chip is None or not re.fullmatch(rf"[1-9]\d*(x[1-9]\d*){{{chip.dimensions - 1}}}", shape):
        raise wrong_topology(topology)
    return chip


def wrong_topology(topology: str) -> UserError:
    """Returns an error that lists the valid topologies."""
    forms = " or ".join(
        f"{'|'.join(name for name, chip in CHIPS.items() if chip.dimensions == axes)}:{'x'.join('ABC'[:axes])}"
        for axes in (2, 3)
    )
    return UserError(f"topology={topology!r} must be {forms}, even sides, such as {_EXAMPLES}")
