"""Memory traffic of an optimised HLO module."""

from __future__ import annotations

import re

from train.pods.hlo import Computation, HloModule, Instruction, called_by, num_bytes

_FREE = (
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast"),
    *("while", "call", "conditional", "async-start", "async-update"),
)
"""Opcodes that move no data themselves."""
_SLICING = ("slice", "dynamic-slice", "gather")
_IN_PLACE = "dynamic-update-slice"


def memory_traffic(module: HloModule) -> int:
    """Bytes that one run of a module moves between a device and its main memory.

    Counts the operands and results of all instructions outside of fusions; of an array that is only sliced or updated
    in place, only the slice counts.
    """
    return sum(
        times * _moved(module, body, line)
        for name, times in module.runs().items()
        if name not in module.fused
        for body in [module.computations.get(name, {})]
        for line in body.values()
        if line.opcode not in _FREE and not line.opcode.endswith("-done")
    )


def _moved(module: HloModule, body: Computation, line: Instruction) -> int:
    """Bytes that an instruction moves from and to main memory."""
    if line.opcode in ("copy-start", "slice-start"):  # source and destination, in either order
        ends = [(num_bytes(array), main) for array, main in _arrays(line.type)][:2]
        return min(size for size, _ in ends) * sum(main for _, main in ends)
    if line.opcode.endswith("-start") and line.opcode != "all-reduce-start":  # the type holds the operands too
        return sum(num_bytes(array) for array, main in _arrays(line.type) if main)
    read = sum(
        _read(module, body, line, position)
        for position, operand in enumerate(line.operands)
        if operand in body and all(main for _, main in _arrays(body[operand].type))
    )
    written = zip(_written(module, body, line), _arrays(line.type), strict=False)
    return read + sum(size for size, (_, main) in written if main)


def _read(module: HloModule, body: Computation, line: Instruction, position: int) -> int:
    """Bytes that an instruction reads of an operand."""
    if position == 0 and line.opcode in _SLICING:
        return num_bytes(line.type)
    if position == 0 and line.opcode == _IN_PLACE:
        return 0
    operand = body[line.operands[position]]
    whole = num_bytes(operand.type)
    if line.opcode in ("bitcast", "tuple"):
        return whole if line.root and operand.opcode != _IN_PLACE else 0
    if line.opcode != "fusion":
        return whole
    inner = module.computations[called_by(line)[0]]
    parameter = next(
        at.name for at in inner.values() if at.opcode == "parameter" and at.rest.startswith(f"{position})")
    )
    return min(whole, _read_inside(module, inner, parameter))


def _read_inside(module: HloModule, body: Computation, name: str) -> int:
    """Bytes that the instructions of a fusion read of an array and its aliases."""
    total = 0
    for line in body.values():
        for position, operand in enumerate(line.operands):
            if operand == name:
                total += _read(module, body, line, position)
                if line.opcode == "bitcast" or (position == 0 and line.opcode == _IN_PLACE):
                    total += _read_inside(module, body, line.name)
    return total


def _written(module: HloModule, body: Computation, line: Instruction) -> list[int]:
    """Bytes that an instruction writes to each array of its result."""
    if line.opcode == "fusion":
        inner = module.computations[called_by(line)[0]]
        return _written(module, inner, next(at for at in inner.values() if at.root))
    if line.opcode in ("tuple", "bitcast"):
        return [size for operand in line.operands for size in _written(module, body, body[operand])]
    if line.opcode == _IN_PLACE:
        return [num_bytes(body[line.operands[1]].type)]
    return [num_bytes(array) for array, _ in _arrays(line.type)]


def _arrays(text: str) -> list[tuple[str, bool]]:
    """The arrays of a type, and whether each is in main memory; a layout names any other memory space."""
    return [(array, "S(" not in layout) for array, layout in re.findall(r"(\w+\[[\d,]*\])(\{[^}]*\})?", text)]
