"""The error for an argument that has to be one of some values."""

from __future__ import annotations

import difflib
from collections.abc import Collection


def check_choice(name: str, value: object, allowed: Collection[object]) -> None:
    """Raises a ValueError that names the argument, its value, the values allowed and the nearest of them."""
    if value in tuple(allowed):
        return
    near = difflib.get_close_matches(str(value), map(str, allowed), n=1)
    hint = f": did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"{name}={value!r} is not one of {', '.join(map(repr, allowed))}{hint}")
