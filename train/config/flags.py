"""What the programs share: flags to dataclasses, config files, errors in one line."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import importlib.util
import io
import logging
import os
import re
import runpy
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

_NEEDED = (
    "grain",
    "matplotlib",
    "optax",
    "orbax",
    "PIL",
    "sklearn",
    "tensorboard",
    "tensorflow_datasets",
    "tqdm",
    "tyro",
)

if _missing := [name for name in _NEEDED if importlib.util.find_spec(name) is None]:
    print(f"error: {', '.join(_missing)} not installed: pip install -e '.[train]'", file=sys.stderr)
    sys.exit(2)

import tyro  # noqa: E402

from train.config.errors import UserError, explain, nearest  # noqa: E402
from train.config.schema import DURATIONS, Config, flatten  # noqa: E402

_T = TypeVar("_T")


def program(main: Callable[[Sequence[str]], None]) -> None:
    """Runs a program: what a user can mend ends in one line on standard error and exit code 2."""
    for library in ("absl", "asyncio"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    sys.unraisablehook = _report_unraisable
    try:
        main(sys.argv[1:])
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (Exception, KeyboardInterrupt) as error:
        explained = explain(error)
        if explained is None:
            raise
        message, code = explained
        print(f"error: {message}", file=sys.stderr)
        if isinstance(error, KeyboardInterrupt):  # the compiler may be at work, and falls with the interpreter
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        sys.exit(code)


def _report_unraisable(unraisable: Any) -> None:
    """Passes over what is no fault, and lets an interrupt through that fell into a callback of the garbage collector.

    Where a save fails, TensorStore ends its other writes after Orbax's event loop is closed: the save is told of.
    """
    if isinstance(unraisable.exc_value, KeyboardInterrupt):
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()  # now it would be lost again
    elif str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


def parse(
    cls: type[_T], arguments: Sequence[str], *, prog: str, default: _T | None = None, switches: bool = False
) -> _T:
    """Builds a dataclass from flags, spelt with underscores as `--key value` or `--key=value`.

    With `switches`, flags of type bool take no value.

    Raises:
      UserError: a flag is unknown (the message gives the nearest), or its value does not fit.
    """
    said = io.StringIO()
    options: dict[str, Any] = {} if default is None else {"default": default}
    try:
        with contextlib.redirect_stderr(said):
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
        raise UserError(_first_sentence(said.getvalue())) from None


def _first_sentence(box: str) -> str:
    """The message of one of tyro's error boxes, framed or not, without title, rules and pointers to the help."""
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
"""What tyro calls them in the help."""


def _misfit(text: str, lines: Sequence[str]) -> str | None:
    """Says of a value that does not fit its flag what would; None for other messages."""
    if choice := re.match(r"invalid choice '(.*)' for argument '(\S+)'\. Expected one of \((.*)\)", text):
        value, flag, listed = choice.groups()
        options = sorted(re.findall(r"'([^']*)'", listed))  # tyro has those of some types in random order
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


def read_config_file(path: str) -> Config:
    """Runs a config file, which is the user's own Python code, and returns its `config`.

    Raises:
      UserError: there is no such file, it fails, or it defines no `config` of type Config.
    """
    return read_from_file(path, "config", Config)


def read_from_file(path: str, name: str, kind: type[_T]) -> _T:
    """Runs a file, which is the user's own Python code, and returns what it calls by that name.

    Raises:
      UserError: there is no such file, it fails, or it defines nothing of that name and kind.
    """
    if os.path.isdir(path):
        raise UserError(f"{path} is a folder, not a config file")
    if not os.path.isfile(path):
        raise UserError(f"there is no config file {path}{_nearest_file(path)}")
    try:
        names = runpy.run_path(path)
    except Exception as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == path]
        line = getattr(error, "lineno", None) or (frames[-1].lineno if frames else "?")
        raise UserError(f"{path}, line {line}: {_describe(error)}") from error
    value = names.get(name)
    if not isinstance(value, kind):
        raise UserError(f"{path} must define {name} = {kind.__name__}(...), see {kind.__module__.replace('.', '/')}.py")
    return value


def _nearest_file(path: str) -> str:
    folder = os.path.dirname(path) or "."
    files = os.listdir(folder) if os.path.isdir(folder) else []
    near = difflib.get_close_matches(os.path.basename(path), files, n=1)
    return f": did you mean {os.path.join(os.path.dirname(path), near[0])}?" if near else ""


def _describe(error: Exception) -> str:
    """The error's message, with the nearest setting where a setting is unknown."""
    if isinstance(error, SyntaxError):
        return f"SyntaxError: {error.msg}"
    unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    if not unknown:
        return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    settings = {name.rpartition(".")[2]: name for name in flatten(Config(total_steps=1))}
    near = difflib.get_close_matches(unknown[1], settings, n=1)
    return f"unknown setting {unknown[1]!r}" + (f": did you mean {settings[near[0]]}?" if near else "")


def with_duration_of(config: Config, arguments: Sequence[str]) -> Config:
    """Makes room for a duration on the command line, which replaces the config's, whatever its unit."""
    flags = [argument.removeprefix("--").partition("=")[0].replace("-", "_") for argument in arguments]
    given = [name for name in DURATIONS if name in flags]
    if not given:
        return config
    durations: dict[str, Any] = {name: 1 if name == given[0] else None for name in DURATIONS}
    return dataclasses.replace(config, **durations)
