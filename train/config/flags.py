"""Command lines of the programs: flags into dataclasses, config files, and user errors in one line."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
import logging
import os
import pathlib
import re
import runpy
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import tyro

from train.config.errors import UserError, exit_message, nearest
from train.config.schema import DURATIONS, Config
from train.config.validation import flatten

_T = TypeVar("_T")
_CONFIGS = pathlib.Path(__file__).parents[2] / "configs"


def program(main: Callable[[Sequence[str]], None]) -> None:
    """Runs a program. A user error prints one line to stderr and exits with code 2."""
    for library in ("absl", "asyncio"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    sys.unraisablehook = _report_unraisable
    try:
        main(sys.argv[1:])
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (Exception, KeyboardInterrupt) as error:
        known = exit_message(error)
        if known is None:
            raise
        message, code = known
        print(f"error: {message}", file=sys.stderr)
        if isinstance(
            error, KeyboardInterrupt
        ):  # the compiler may be running, and crashes while the interpreter shuts down
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        sys.exit(code)


def _report_unraisable(unraisable: Any) -> None:
    """Ignores a harmless error, and raises an interrupt again that was raised in a destructor and would be lost.

    The harmless one: after a failed save, which is reported, TensorStore ends its other writes when Orbax's event loop
    is closed.
    """
    if isinstance(unraisable.exc_value, KeyboardInterrupt):
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()  # raised here it would be lost again
    elif str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


def parse(
    cls: type[_T], arguments: Sequence[str], *, prog: str, default: _T | None = None, switches: bool = False
) -> _T:
    """Builds a dataclass from flags, spelt with underscores as `--key value` or `--key=value`.

    Args:
      cls: the dataclass.
      arguments: flags and values.
      prog: the program, for its help.
      default: values of what has no flag.
      switches: whether flags of type bool take no value.

    Raises:
      UserError: a flag is unknown (the message gives the nearest), or its value does not fit.
    """
    stderr = io.StringIO()
    options: dict[str, Any] = {} if default is None else {"default": default}
    try:
        with contextlib.redirect_stderr(stderr):
            return tyro.cli(
                cls,
                args=list(arguments),
                prog=prog,
                use_underscores=True,
                config=(() if switches else (tyro.conf.FlagConversionOff,)),
                **options,
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UserError(_first_sentence(stderr.getvalue())) from None


def _first_sentence(box: str) -> str:
    """Extracts the message from one of tyro's error boxes: no frame, title, rules or pointers to the help."""
    stripped = (line.strip("│ ") for line in box.splitlines())
    lines = [line for line in stripped if not set(line) <= set("╰╯─-")][1:]
    text = re.split(r"Argument helptext:|For full helptext", " ".join(lines))[0].strip()
    if misfit := _misfit(text, lines):
        return misfit
    if unknown := re.match(r"Unrecognized options: (--[^\s,=]+).*?(?: Perhaps you meant: (--\S+).*)?$", text):
        name, near = unknown.groups()
        return f"there is no {name}" + (f": did you mean {near}?" if near else "")
    return re.sub(r"^Error parsing [\w.]*config(\.\w+)?: ", "", text)


_KINDS = {
    "INT": "an integer",
    "FLOAT": "a number",
    "[INT [INT ...]]": "integers",
    "[FLOAT [FLOAT ...]]": "numbers",
    "PIXELS ...": "integers",
}
"""By the metavar in tyro's help: the name of a type in messages."""


def _misfit(text: str, lines: Sequence[str]) -> str | None:
    """Rewrites the message on a value that does not fit its flag, to say what is allowed; None for other messages."""
    if choice := re.match(r"invalid choice '(.*)' for argument '(\S+)'\. Expected one of \((.*)\)", text):
        value, flag, listed = choice.groups()
        options = sorted(re.findall(r"'([^']*)'", listed))  # tyro lists some types in random order
    elif parsing := re.match(r"Error parsing (--\S+): (.*)", text):
        flag, reason = parsing.groups()
        value = " ".join(re.findall(r"'([^']*)'", reason.partition(" Got errors:")[0]))
        kinds = next((line.removeprefix(f"{flag} ") for line in lines if line.startswith(f"{flag} ")), "")
        options = [_KINDS.get(one, one) for kind in kinds.split("|") for one in kind.strip("{}").split(",")]
    else:
        return None
    *others, last = options
    allowed = f"{', '.join(others)} or {last}" if others else last
    return f"{flag}={value} must be {allowed}{nearest(value, options)}" if allowed else None


def read_config_file(name: str) -> Config:
    """Runs a config file, which is the user's own Python code, and returns its `config`.

    Args:
      name: path of the file, or its name alone, see `find_config`.

    Raises:
      UserError: there is no such file, it fails, or it defines no `config` of type Config.
    """
    return read_from_file(name, "config", Config)


def read_from_file(name: str, variable: str, kind: type[_T]) -> _T:
    """Runs a file of `configs/`, or the user's own, and returns one of the variables it defines.

    Args:
      name: path of the file, or its name alone, see `find_config`.
      variable: name of the variable.
      kind: its type.

    Raises:
      UserError: there is no such file, it fails, or it defines no such variable of this type.
    """
    path = find_config(name)
    try:
        variables = runpy.run_path(path)
    except Exception as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == path]
        line = getattr(error, "lineno", None) or (frames[-1].lineno if frames else "?")
        raise UserError(f"{path}, line {line}: {_describe(error)}") from error
    value = variables.get(variable)
    if not isinstance(value, kind):
        see = kind.__module__.replace(".", "/")
        raise UserError(f"{path} must define {variable} = {kind.__name__}(...), see {see}.py")
    return value


def find_config(name: str) -> str:
    """Returns the path of a config file.

    Args:
      name: path of a file; or, from any folder, the name of a file below `configs/` without folder and `.py`, such as
        `digits_cbam`.

    Raises:
      UserError: there is no such file (the message gives the nearest), or several have this name.
    """
    if os.path.isfile(name):
        return name
    paths = sorted(map(str, _CONFIGS.rglob("*.py")))
    found = [path for path in paths if config_name(path) == name]
    if len(found) > 1:
        raise UserError(f"{len(found)} configs are named {name}: give the path of one, {' or '.join(found)}")
    if found:
        return found[0]
    if os.path.isdir(name):
        raise UserError(f"{name} is a folder, not a config file")
    raise UserError(
        f"there is no config file {name}{_nearest_file(name) or nearest(config_name(name), map(config_name, paths))}"
    )


def config_name(path: str) -> str:
    """Name of a config: that of its file, without folder and `.py`."""
    return os.path.splitext(os.path.basename(path))[0]


def _nearest_file(path: str) -> str:
    folder = os.path.dirname(path)
    files = [file for file in os.listdir(folder) if file.endswith(".py")] if os.path.isdir(folder) else []
    near = difflib.get_close_matches(os.path.basename(path), files, n=1)
    return f": did you mean {os.path.join(folder, near[0])}?" if near else ""


def _describe(error: Exception) -> str:
    """The error's message, with the nearest setting if a setting is unknown."""
    if isinstance(error, SyntaxError):
        return f"SyntaxError: {error.msg}"
    unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    if not unknown:
        return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    settings = {name.rpartition(".")[2]: name for name in flatten(Config(total_steps=1))}
    near = difflib.get_close_matches(unknown[1], settings, n=1)
    return f"unknown setting {unknown[1]!r}" + (f": did you mean {settings[near[0]]}?" if near else "")


def with_duration_of(config: Config, arguments: Sequence[str]) -> Config:
    """Clears the config's duration if the flags have one, which may be in another unit."""
    flags = [argument.removeprefix("--").partition("=")[0].replace("-", "_") for argument in arguments]
    given = [name for name in DURATIONS if name in flags]
    if not given:
        return config
    durations: dict[str, Any] = {name: 1 if name == given[0] else None for name in DURATIONS}
    return dataclasses.replace(config, **durations)
