"""python -m train CONFIG [--workdir DIR] [--SETTING VALUE ...]"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import Annotated

import tyro

from train.config import Config
from train.config.flags import config_name, parse, program, read_config_file, with_duration_of
from train.hosts.processes import Hosts, connected, is_first

_DEFAULT_CONFIG = "digits_cbam"


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Trains a net: python -m train CONFIG [--workdir DIR] [--SETTING VALUE ...]

    CONFIG is a Python file that defines `config`, given by its path or, below configs/, by its name alone; the default
    is digits_cbam. The file is executed: use only files you trust. Repeat the command to resume the run.
    """

    config: Annotated[Config, tyro.conf.arg(name="")]
    workdir: str
    """Folder of the run, created if missing and shared by all processes."""
    hosts: Annotated[Hosts, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Hosts)


def main(arguments: Sequence[str]) -> None:
    """Reads the flags and trains."""
    path, flags = _DEFAULT_CONFIG, list(arguments)
    if flags and not flags[0].startswith("-"):
        path = flags.pop(0)
    config = with_duration_of(read_config_file(path), flags)
    default = Arguments(config, os.path.join("runs", config_name(path)))
    parsed = parse(Arguments, flags, default=default, prog="python -m train CONFIG")

    with connected(parsed.hosts):
        from train import train
        from train.tasks import task_of

        result = train(parsed.config, parsed.workdir)
        if result is not None and is_first():
            print(task_of(parsed.config).lines(result)[-1], flush=True)


if __name__ == "__main__":
    program(main)
