"""python -m train.aot_table CONFIG ... [--topology v5e:16x16] [--batch_per_chip 64] [--find_batch] [--out FILE]"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import tyro

from train.config.atomic import replacing
from train.config.errors import UserError
from train.config.flags import config_name, parse, program, read_config_file
from train.pods.batch import most_images
from train.pods.chips import chip_of
from train.pods.compile import COMPILER, GIB, Pod

_MOST, _KEY = "most images a chip", "key"
_COLUMNS = (
    "config",
    "net",
    "images a chip",
    "GiB a chip",
    _MOST,
    "all-reduces",
    "MB in collectives",
    "GFLOP an image",
    "MB accessed an image",
    "MB from and to HBM an image",
    "images/s at most",
    "bound by",
    "compiled in s",
    "compiler",
    "machine and date",
    _KEY,
)


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Compiles configs for a TPU pod, one after the other, and writes a table of the results.

    A config in the table is compiled again only if the topology, the compiler or its traced step (traced within
    seconds) has changed. Rows of other configs and of configs that fail are kept.
    """

    configs: tyro.conf.Positional[tuple[str, ...]]
    """Config files, given by path or, below configs/, by name alone."""
    topology: str = "v5e:16x16"
    """Chip and torus, see python -m train.aot."""
    batch_per_chip: int = 64
    """Images per chip and step; a config fails if they do not fit."""
    find_batch: tyro.conf.FlagCreatePairsOff[bool] = False
    """Also find the largest batch per chip, see python -m train.aot."""
    out: str = "runs/pod.md"
    """Markdown file of the table."""


def _compile(path: str, topology: str, images: int) -> dict[str, Any]:
    """Runs `python -m train.aot` in a subprocess, which frees its memory, and returns its record.

    Raises:
      subprocess.CalledProcessError: the program failed.
    """
    command = [sys.executable, "-m", "train.aot", path, "--topology", topology, "--batch_per_chip", str(images)]
    with tempfile.TemporaryDirectory() as folder:
        recorded = os.path.join(folder, "record.json")
        subprocess.run([*command, "--json", recorded], check=True)
        with open(recorded, encoding="utf-8") as file:
            return json.load(file)


def row_of(path: str, record: Mapping[str, Any]) -> dict[str, str]:
    """The table row of a recorded step: cells by column."""
    step = record["step"]
    traffic, times = step["traffic"], step["times"]
    cells = (
        config_name(path),
        record["config"]["model.name"],
        step["images"],
        f"{step['needed'] / GIB:.2f}",
        "",
        traffic.get("all-reduce", {}).get("count", 0),
        f"{sum(kind['bytes'] for kind in traffic.values()) / 1e6:.1f}",
        f"{step['flops'] / step['images'] / 1e9:.1f}",
        f"{step['accessed'] / step['images'] / 1e6:.0f}",
        f"{step['moved'] / step['images'] / 1e6:.0f}",
        f"{step['images_per_second']:,.0f}",
        max(times, key=lambda name: times[name]),
        f"{step['seconds']:.0f}",
        ", ".join(f"{name} {record['versions'][name]}" for name in COMPILER),
        f"{record['machine']}, {record['date']}",
        _short(record["key"]),
    )
    return dict(zip(_COLUMNS, map(str, cells), strict=True))


def table(rows: Mapping[str, Mapping[str, str]], topology: str) -> str:
    """The table in Markdown, one row for each config."""
    chip = chip_of(topology)
    lines = [
        _title(topology),
        "",
        "Made by `python -m train.aot_table` without a TPU: steps with as many images a chip as the column says.",
        f"{chip.memory} GiB is what programs may take of a chip. `images/s at most` takes "
        f"{chip.flops / 1e12:.0f} Tflop/s, {chip.memory_bandwidth / 1e9:.0f} GB/s of HBM",
        f"and {chip.network_bandwidth / 1e9:.0f} GB/s over all links of a chip, if the three overlap perfectly: "
        "no step is faster, real ones are slower.",
        "`MB accessed` is XLA's count of what operations take and give, on the chip too; `MB from and to HBM` is read",
        "from the compiled program. XLA counts what is in a loop once, the other columns as often as it runs.",
        "The most images a chip are those that the compiler finds room for, beside the program and 1 % of the memory;",
        "3 % or a group of batch norm more do not fit, and still more may. A step has at most 1,048,576 images. Empty",
        "cells are not known yet.",
        "`key` stands for the traced step, the topology and the compiler: with another key a config is compiled again.",
        "",
        _line(_COLUMNS),
        "|---" * len(_COLUMNS) + "|",
    ]
    return "\n".join([*lines, *(_line(rows[name].values()) for name in sorted(rows))]) + "\n"


def read_table(path: str, topology: str) -> dict[str, dict[str, str]]:
    """Reads the rows of a table, by config; empty if there is no such file.

    Raises:
      UserError: the file holds something else.
    """
    with contextlib.suppress(FileNotFoundError), open(path, encoding="utf-8", errors="replace") as file:
        text = file.read()
        _, heading, body = text.partition(f"\n{_line(_COLUMNS)}\n")
        cells = [line.removeprefix("| ").removesuffix(" |").split(" | ") for line in body.splitlines()[1:]]
        widths, names = {len(row) for row in cells}, {row[0] for row in cells}
        ours = heading and text.startswith(f"{_title(topology)}\n")
        if not ours or not widths <= {len(_COLUMNS)} or len(names) < len(cells):
            raise UserError(f"out={path!r} does not hold a table for {topology}: choose another file")
        return {row[0]: dict(zip(_COLUMNS, row, strict=True)) for row in cells}
    return {}


def _title(topology: str) -> str:
    return f"# Training steps compiled for {topology}"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _short(key: str) -> str:
    return key[:12]


def main(arguments: Sequence[str]) -> None:
    """Reads the flags, compiles configs that are missing or out of date, and writes the table."""
    parsed = parse(Arguments, arguments, prog="python -m train.aot_table", switches=True)
    if not parsed.configs:
        raise UserError("give at least one config, such as imagenet_resnet50")
    names = [config_name(path) for path in parsed.configs]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise UserError(f"two configs are named {min(twice)}: the table has one row for each name")
    pod, failed = Pod.of(parsed.topology), []
    os.makedirs(os.path.dirname(os.path.abspath(parsed.out)), exist_ok=True)
    read_table(parsed.out, pod.topology)

    def save(row: dict[str, str]) -> None:
        rows = read_table(parsed.out, pod.topology) | {row["config"]: row}
        with replacing(parsed.out) as new, open(new, "w", encoding="utf-8") as file:
            file.write(table(rows, pod.topology))

    for number, path in enumerate(parsed.configs, 1):
        print(f"== {path}, {number} of {len(parsed.configs)}", flush=True)
        try:
            config = pod.with_images(read_config_file(path), parsed.batch_per_chip)
            row = read_table(parsed.out, pod.topology).get(config_name(path), {})
            if row.get(_KEY) == _short(pod.key(config)):
                print("up to date", flush=True)
            else:
                print("compiling", flush=True)
                row = row_of(path, _compile(path, pod.topology, parsed.batch_per_chip))
                save(row)
            if parsed.find_batch and not row[_MOST]:
                needed = int((float(row["GiB a chip"]) + 0.005) * GIB)  # upper end of the rounded value
                save(row | {_MOST: str(most_images(pod, config, pod.planned_bytes(config), needed))})
        except (UserError, OSError) as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            failed.append(path)
        except subprocess.CalledProcessError as error:
            print(f"error: the compilation ended with code {error.returncode}", file=sys.stderr, flush=True)
            failed.append(path)
    if rows := read_table(parsed.out, pod.topology):
        print(table(rows, pod.topology), end="")
    if failed:
        raise UserError(f"failed: {', '.join(failed)}; repeat the command to retry")


if __name__ == "__main__":
    program(main)
