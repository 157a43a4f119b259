"""From the constructor call that a fixture records to our module: rules over the call, not over the fixture's name."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import flax.linen as nn

_OPERATORS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
}


class UnknownConstructor(Exception):
    """No rule turns this constructor into a module of ours."""


@dataclass(frozen=True)
class Symbol:
    """A name that is no literal, such as `nn.SiLU`."""

    name: str


@dataclass(frozen=True)
class Call:
    """A call of the reference's code, with its arguments evaluated."""

    name: str
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Mapped:
    """A module of ours, and how its leaves are called in the reference.

    `build` takes dtype and param_dtype where the module is a net. `ours` is where the module would stand in a net of
    `source`, and `theirs` what is written before its names there.
    """

    build: Callable[..., nn.Module]
    source: str = "torchvision"
    ours: str = ""
    theirs: str = ""


def parse(constructor: str) -> Call:
    """Reads a call such as `timm: EcaModule(32, gamma=4/2)`; what is before it is put before the name."""
    prefix, rest = re.fullmatch(r"(?:([\w.]+):? )?(.*)", constructor, re.DOTALL).groups()  # type: ignore[union-attr]
    try:
        expression = ast.parse(rest, mode="eval").body
    except SyntaxError:
        raise UnknownConstructor(f"cannot be read as a call: {constructor}") from None
    if not isinstance(expression, ast.Call):
        raise UnknownConstructor(f"is not a call: {constructor}")
    call = _value(expression)
    return Call(f"{prefix}: {call.name}", call.args, call.kwargs) if prefix else call


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Constant():
            return node.value
        case ast.List() | ast.Tuple():
            return tuple(_value(item) for item in node.elts)
        case ast.Dict():
            return {_value(key): _value(item) for key, item in zip(node.keys, node.values, strict=True) if key}
        case ast.UnaryOp(op=ast.USub()):
            return -_value(node.operand)
        case ast.BinOp() if type(node.op) in _OPERATORS:
            return _OPERATORS[type(node.op)](_value(node.left), _value(node.right))
        case ast.Name() | ast.Attribute():
            return Symbol(ast.unparse(node))
        case ast.Call():
            kwargs = {item.arg: _value(item.value) for item in node.keywords if item.arg}
            name = _function_name(node.func)
            return kwargs if name == "dict" else Call(name, tuple(_value(item) for item in node.args), kwargs)
    raise UnknownConstructor(f"has an argument that no rule reads: {ast.unparse(node)}")


def _function_name(node: ast.expr) -> str:
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
        return str(node.slice.value)  # GG['SEModule']
    return ast.unparse(node)


def map_constructor(constructor: str, rules: dict[str, Callable[..., Mapped]]) -> Mapped:
    """Finds our module.

    Args:
      constructor: the call that a fixture records.
      rules: by the called name, a function with the reference's own signature.

    Raises:
      UnknownConstructor: no rule fits.
    """
    described = re.fullmatch(r"(\w+)\((\w+) with (.*)\)(?:; fc \d+->(\d+))?", constructor)
    call = _described(*described.groups()) if described else parse(constructor)
    if call.name not in rules:
        raise UnknownConstructor(f"no rule for {call.name!r} of {constructor}")
    rule = rules[call.name]
    try:
        return rule(*call.args, **call.kwargs)
    except TypeError as error:
        raise UnknownConstructor(f"{constructor}: {error}") from error


def _described(net: str, block: str, text: str, classes: str | None) -> Call:
    """Reads `EPSANet(EPSABlock with expansion=2, ...; widths 128,256; layers=[3, 4])`, a description of a call."""
    kwargs: dict[str, Any] = {}
    for part in re.split(r"; |, (?=\w+=)", text):
        name, value = re.fullmatch(r"(\w+)[ =](.*)", part).groups()  # type: ignore[union-attr]
        kwargs[name] = _value(ast.parse(value, mode="eval").body)
    if classes:
        kwargs["num_classes"] = int(classes)
    return Call(f"{net} of {block}", (), kwargs)
