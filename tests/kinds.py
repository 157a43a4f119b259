"""Selects what is tested without --full: the cheapest net, block or config of each kind."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable
from typing import Any, TypeVar

import pytest

T = TypeVar("T")


def only_in_full(*values: Any) -> Any:
    """Values of a test's parameters that are checked with --full alone."""
    return pytest.param(*values, marks=pytest.mark.full)


def without_numbers(name: str) -> str:
    """The kind of things whose names differ in their numbers alone; `_64px` is one."""
    return re.sub(r"_?\d+(px)?", "", name)


def numbers(name: str) -> list[int]:
    """A cost of things whose names tell their sizes."""
    return [int(number) for number in re.findall(r"\d+", name)]


def cheapest(things: Iterable[T], kind: Callable[[T], Hashable], cost: Callable[[T], Any]) -> list[T]:
    """The cheapest thing of each kind, the first of equally cheap ones."""
    chosen: dict[Hashable, T] = {}
    for thing in sorted(things, key=cost):
        chosen.setdefault(kind(thing), thing)
    return list(chosen.values())


def one_of_each_kind(
    things: Iterable[T],
    kind: Callable[[T], Hashable],
    cost: Callable[[T], Any],
    name: Callable[[T], str] = str,
    marks: Callable[[T], list[pytest.MarkDecorator]] = lambda thing: [],
) -> list[Any]:
    """Parameters for a test, one for each thing; all but the cheapest of each kind are marked `full`, too."""
    things = list(things)
    kept = set(map(id, cheapest(things, kind, cost)))
    full = [pytest.mark.full]
    return [
        pytest.param(thing, id=name(thing), marks=[*marks(thing), *([] if id(thing) in kept else full)])
        for thing in things
    ]
