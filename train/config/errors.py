"""User errors, and the one line with which a program reports them."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable


class UserError(ValueError):
    """An error in the user's input. Its message is one line: what is wrong, and what is allowed.

    The programs print it to stderr and exit with code 2.
    """


class NotFiniteError(UserError):
    """The loss, a gradient or a parameter of the run with this seed is not finite."""

    def __init__(self, message: str, seed: int) -> None:
        super().__init__(message)
        self.seed = seed


def exit_message(error: BaseException) -> tuple[str, int] | None:
    """Returns the line for the user and the exit code of a program that ends with an error; None for a bug."""
    if isinstance(error, OSError):
        line, code = f"{error.filename}: {error.strerror}" if error.filename else str(error), 2
    elif isinstance(error, UserError):
        line, code = str(error), 2
    elif isinstance(error, MemoryError) or _is_of_device_memory(error):
        line, code = "out of memory: lower data.batch_size or the size of the images, or train fewer seeds together", 2
    elif isinstance(error, KeyboardInterrupt):
        line, code = "; ".join(("interrupted", *map(str, error.args))), 130
    else:
        return None
    return " ".join(line.split()), code


def _is_of_device_memory(error: BaseException) -> bool:
    return type(error).__name__ == "JaxRuntimeError" and "RESOURCE_EXHAUSTED" in str(error)


def nearest(name: str, names: Iterable[str]) -> str:
    """Returns the end of a message that suggests the nearest of some names; empty if none is near."""
    near = difflib.get_close_matches(name, list(names), n=1, cutoff=0.75)
    return f": did you mean {near[0]}?" if near else ""


def reason(error: Exception) -> str:
    """Returns the operating system's message if that is the cause, and otherwise the error's first line."""
    code = re.search(r"os_error_code='(\d+)'", str(error))
    if code:
        return os.strerror(int(code[1]))
    return getattr(error, "strerror", None) or str(error).partition("\n")[0]
