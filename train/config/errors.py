"""The errors a user can mend."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable


class UserError(ValueError):
    """Says in one line what is wrong with the user's input and how to mend it.

    The programs print it on standard error and exit with code 2.
    """


class NotFiniteError(UserError):
    """The loss, a gradient or a parameter of the run with a seed is no longer finite."""

    def __init__(self, message: str, seed: int) -> None:
        super().__init__(message)
        self.seed = seed


def explain(error: BaseException) -> tuple[str, int] | None:
    """One line for the user, and the exit code; None for what only a programmer can mend."""
    if isinstance(error, OSError):
        said, code = f"{error.filename}: {error.strerror}" if error.filename else str(error), 2
    elif isinstance(error, UserError):
        said, code = str(error), 2
    elif isinstance(error, MemoryError) or _is_of_device_memory(error):
        said, code = "out of memory: lower data.batch_size or data.image_size, or train fewer seeds together", 2
    elif isinstance(error, KeyboardInterrupt):
        said, code = "; ".join(("interrupted", *map(str, error.args))), 130
    else:
        return None
    return " ".join(said.split()), code


def _is_of_device_memory(error: BaseException) -> bool:
    return type(error).__name__ == "JaxRuntimeError" and "RESOURCE_EXHAUSTED" in str(error)


def nearest(name: str, names: Iterable[str]) -> str:
    """Ends a message with the nearest of some names, where one is near."""
    near = difflib.get_close_matches(name, list(names), n=1, cutoff=0.75)
    return f": did you mean {near[0]}?" if near else ""


def reason(error: Exception) -> str:
    """What the operating system says, where it is the cause, or else the error's first line."""
    code = re.search(r"os_error_code='(\d+)'", str(error))
    if code:
        return os.strerror(int(code[1]))
    return getattr(error, "strerror", None) or str(error).partition("\n")[0]
