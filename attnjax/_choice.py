"""The error for an argument that has to be one of some values, and the names nearest to an unknown one."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable


def nearest(name: str, names: Iterable[str], n: int = 1) -> list[str]:
    """At most `n` of the names, the shortest that continue the given one first, then similar ones."""
    names = list(names)
    longer = sorted((each for each in names if name and each.startswith(name)), key=len)
    return list(dict.fromkeys([*longer, *difflib.get_close_matches(name, names, n=n)]))[:n]


def check_choice(name: str, value: object, allowed: Collection[object]) -> None:
    """Raises a ValueError that names the argument, its value, the values allowed and the nearest of them."""
    if value in tuple(allowed):
        return
    near = nearest(str(value), map(str, allowed))
    hint = f": did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"{name}={value!r} is not one of {', '.join(map(repr, allowed))}{hint}")
