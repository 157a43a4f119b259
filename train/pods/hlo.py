"""Parses an optimised HLO module: its collectives, and the trip counts of its loops."""

from __future__ import annotations

import dataclasses
import math
import re
from collections import defaultdict
from collections.abc import Callable, Mapping

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.-]+) = (.*?) ([a-z][\w-]*)\((.*)$")
_ARRAY = re.compile(r"\b([a-z]+\d*\w*)\[([\d,]*)\]")
_CALLED = re.compile(r"\b(?:calls|body|to_apply|true_computation|false_computation)=%?([\w.-]+)")
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")
_SENT: Mapping[str, Callable[[int], float]] = {
    "all-reduce": lambda n: 2 * (n - 1) / n,
    "all-gather": lambda n: (n - 1) / n,
    "reduce-scatter": lambda n: (n - 1) / n,
    "all-to-all": lambda n: (n - 1) / n,
    "collective-permute": lambda n: 1.0,
}
"""Share of the whole array that each of n devices sends around a ring."""
_CALLING = ("while", "call", "conditional", "fusion", "async-start")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a module.

    Attributes:
      name: name of the instruction.
      type: type of its result, as written.
      opcode: the operation.
      operands: names of its operands.
      rest: everything after the opening bracket.
      root: whether its result is that of its computation.
    """

    name: str
    type: str
    opcode: str
    operands: tuple[str, ...]
    rest: str
    root: bool


Computation = Mapping[str, Instruction]
"""Instructions by name, in the order of the text."""


@dataclasses.dataclass(frozen=True)
class Traffic:
    """Collectives of one kind in a step.

    Attributes:
      count: number of executions.
      bytes: size of their arrays on each device; the gathered size for gathers and scatters.
      sent: bytes that each device sends with ring algorithms.
    """

    count: int = 0
    bytes: int = 0
    sent: float = 0.0


class HloModule:
    """The computations of an optimised HLO module.

    Args:
      text: the text of `compiled.as_text()`.
      num_devices: number of devices it runs on.

    Attributes:
      computations: computations by name.
      fused: names of the computations inside of fusions.
    """

    def __init__(self, text: str, num_devices: int) -> None:
        self._num_devices = num_devices
        self.computations: dict[str, dict[str, Instruction]] = {}
        self._entry = ""
        body: dict[str, Instruction] = {}
        for line in text.splitlines():
            if header := _COMPUTATION.match(line):
                body = self.computations.setdefault(header[2], {})
                self._entry = header[2] if header[1] else self._entry
            elif match := _INSTRUCTION.match(line):
                root, name, kind, opcode, rest = match.groups()
                operands = tuple(re.findall(r"%([\w.-]+)", rest.partition(")")[0]))
                body[name] = Instruction(name, kind, opcode, operands, rest, root is not None)
        self.fused = {
            name
            for body in self.computations.values()
            for line in body.values()
            if line.opcode == "fusion"
            for name in called_by(line)
        }

    def runs(self) -> dict[str, int]:
        """Number of executions of each computation in one run of the module."""
        runs: dict[str, int] = defaultdict(int)

        def visit(name: str, times: int) -> None:
            runs[name] += times
            for line in self.computations.get(name, {}).values():
                if line.opcode in _CALLING:
                    for called in called_by(line):
                        visit(called, times * (self._trips(line) or 1))

        visit(self._entry, 1)
        return dict(runs)

    def unknown_loops(self) -> int:
        """Number of loops with an unknown trip count, which count once."""
        lines = [line for name in self.runs() for line in self.computations.get(name, {}).values()]
        return sum(self._trips(line) is None for line in lines)

    def _trips(self, line: Instruction) -> int | None:
        """Trip count of a loop, from the compiler or from the bound in its condition; None if unknown."""
        if line.opcode != "while":
            return 1
        if known := re.search(r'"known_trip_count":\{"n":"(\d+)"\}', line.rest):
            return int(known[1])
        condition = re.search(r"condition=%?([\w.-]+)", line.rest)
        lines = self.computations.get(condition[1], {}).values() if condition else ()
        constants = [at for at in lines if at.opcode == "constant"]
        bound = constants[0].rest.partition(")")[0] if len(constants) == 1 and constants[0].type[0] in "su" else ""
        return int(bound) if bound.isdecimal() else None

    def traffic(self) -> Mapping[str, Traffic]:
        """Collectives by kind.

        A collective that overlaps with computation occurs in several fusions with one channel, and counts once.
        """
        found: dict[str, Traffic] = {}
        channels = set()
        for name, times in self.runs().items():
            body = self.computations.get(name, {})
            for line in body.values():
                kind = line.opcode.removesuffix("-start")
                if kind not in _SENT:
                    continue
                if name in self.fused:
                    channel = re.search(r"channel_id=\d+", line.rest)
                    if channel and channel[0] in channels:
                        continue
                    channels.add(channel and channel[0])
                size, old = self._group_size(line), found.get(kind, Traffic())
                whole = sum(num_bytes(body[operand].type) for operand in line.operands)
                whole *= size if kind == "all-gather" else 1
                sent = whole * _SENT[kind](size)
                found[kind] = Traffic(old.count + times, old.bytes + times * whole, old.sent + times * sent)
        return found

    def _group_size(self, line: Instruction) -> int:
        """Number of devices in a group of a collective."""
        if match := re.search(r"replica_groups=\{\{([\d,]*)\}", line.rest):
            return match[1].count(",") + 1
        if match := re.search(r"replica_groups=\[\d+,(\d+)\]<=", line.rest):
            return int(match[1])
        if match := re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", line.rest):
            sizes = dict(re.findall(r"'(\w+)'=(\d+)", match[1]))
            return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", match[2]))
        return self._num_devices

    def repetition(self, opcode: str) -> float:
        """Mean number of executions of the instructions with an opcode, weighted by the size of their results."""
        found = [
            (num_bytes(line.type), times)
            for name, times in self.runs().items()
            for line in self.computations.get(name, {}).values()
            if line.opcode == opcode
        ]
        once = sum(size for size, _ in found)
        return sum(size * times for size, times in found) / once if once else 1.0


def called_by(line: Instruction) -> list[str]:
    """Names of the computations that an instruction calls."""
    branches = [name.strip(" %") for names in _BRANCHES.findall(line.rest) for name in names.split(",")]
    return [*_CALLED.findall(line.rest), *branches]


def num_bytes(text: str) -> int:
    """Bytes of all arrays in an HLO type.

    Example:
      >>> num_bytes("(bf16[7,7,3,64]{3,2,1,0:T(4,128)(2,1)}, f32[10]{0}, pred[])")
      18857
    """
    total = 0
    for name, shape in _ARRAY.findall(text):
        bits = 8 if name == "pred" else int((re.search(r"\d+", name) or ["0"])[0])
        total += math.prod(int(side) for side in shape.split(",") if side) * bits // 8
    return total
