"""python -m train.aot_table CONFIG ... [--topology v5e:16x16] [--batch_per_chip 64] [--find_batch] [--out FILE]"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from train.cli import parse, program, read_config_file  # first: it checks the extra

# isort: split
import tyro

from train.aot import read_record
from train.chips import chip_of
from train.errors import UserError
from train.files import replacing
from train.tpu import GIB, Compiled, Pod

_COLUMNS = (
    "config",
    "net",
    "images a chip",
    "GiB a chip",
    "most images a chip",
    "all-reduces",
    "MB in collectives",
    "GFLOP an image",
    "MB accessed an image",
    "MB from and to HBM an image",
    "images/s at most",
    "bound by",
    "compiled in s",
)


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Compiles configs for a TPU pod, one after the other, and puts their figures into a table.

    What is done stays done: a config is compiled again only when its traced step, which takes seconds, the topology or
    the compiler has changed.
    """

    configs: tyro.conf.Positional[tuple[str, ...]]
    """Config files, such as configs/imagenet_*.py."""
    topology: str = "v5e:16x16"
    """Chip and torus, see python -m train.aot."""
    batch_per_chip: int = 64
    """Images of a step on each chip."""
    find_batch: tyro.conf.FlagCreatePairsOff[bool] = False
    """Also find the most images that fit on a chip, and take them where batch_per_chip do not."""
    records: str = "runs/aot"
    """Folder of what is done: a JSON file for each config and topology."""
    out: str | None = None
    """Markdown file to write the table to."""

    def record_path(self, config_path: str) -> str:
        """Where the figures of a config are kept."""
        name = os.path.splitext(os.path.basename(config_path))[0]
        return os.path.join(self.records, f"{name}-{self.topology.replace(':', '-')}.json")


def compile_config(arguments: Arguments, path: str) -> dict[str, Any]:
    """Compiles in a process of its own, which takes its memory along.

    Raises:
      subprocess.CalledProcessError: it failed, and has said why.
    """
    out = arguments.record_path(path)
    command = [sys.executable, "-m", "train.aot", path, "--topology", arguments.topology, "--json", out]
    command += ["--batch_per_chip", str(arguments.batch_per_chip)]
    command += ["--find_batch"] * arguments.find_batch
    subprocess.run(command, check=True)
    with open(out, encoding="utf-8") as file:
        return json.load(file)


def table(records: Mapping[str, Mapping[str, Any]], arguments: Arguments) -> str:
    """Markdown of the records of configs."""
    chip = chip_of(arguments.topology)
    stacks = {", ".join(" ".join(pair) for pair in record["versions"].items()) for record in records.values()}
    places = {f"{record['machine']}, {record['date']}" for record in records.values()}
    lines = [
        f"# Training steps compiled for {arguments.topology}",
        "",
        "Made by `make pod-all` without a TPU: the step of each config with as many images a chip as the column says.",
        f"{chip.memory} GiB is what programs may take of a chip. `images/s at most` takes "
        f"{chip.flops / 1e12:.0f} Tflop/s, {chip.memory_bandwidth / 1e9:.0f} GB/s of HBM",
        f"and {chip.network_bandwidth / 1e9:.0f} GB/s over all links of a chip, as if all three went on at once: "
        "no step is faster, real ones are slower.",
        "`MB accessed` is XLA's count of what operations take and give, on the chip too; `MB from and to HBM` is read",
        "from the compiled program. XLA counts what is in a loop once, the other columns as often as it runs.",
        "The most images a chip are compiled, too; where it says about, they are reckoned from this step's memory.",
        "",
        *(f"{stack};" for stack in sorted(stacks)),
        *sorted(places),
        "",
        f"| {' | '.join(_COLUMNS)} |",
        "|---" * len(_COLUMNS) + "|",
    ]
    return "\n".join([*lines, *(_row(path, record) for path, record in records.items())]) + "\n"


def _row(path: str, record: Mapping[str, Any]) -> str:
    step, largest = record["step"] or record["largest"], record["largest"]
    traffic, times = step["traffic"], step["times"]
    most = largest["images"] if largest else f"about {Compiled.of_record(step).most_images(record['memory_limit'])}"
    cells = (
        os.path.splitext(os.path.basename(path))[0],
        record["config"]["model.name"],
        step["images"],
        f"{step['needed'] / GIB:.2f}",
        most,
        traffic.get("all-reduce", {}).get("count", 0),
        f"{sum(kind['bytes'] for kind in traffic.values()) / 1e6:.1f}",
        f"{step['flops'] / step['images'] / 1e9:.1f}",
        f"{step['accessed'] / step['images'] / 1e6:.0f}",
        f"{step['moved'] / step['images'] / 1e6:.0f}",
        f"{step['images_per_second']:,.0f}",
        max(times, key=lambda name: times[name]),
        f"{step['seconds']:.0f}",
    )
    return f"| {' | '.join(map(str, cells))} |"


def main(arguments: Sequence[str]) -> None:
    """Reads the flags, compiles what is not done yet, and writes the table."""
    parsed = parse(Arguments, arguments, prog="python -m train.aot_table", switches=True)
    if not parsed.configs:
        raise UserError("name config files, such as configs/imagenet_*.py")
    pod = Pod.of(parsed.topology)
    os.makedirs(parsed.records, exist_ok=True)
    records, failed = {}, []
    for number, path in enumerate(parsed.configs, 1):
        print(f"== {path}, {number} of {len(parsed.configs)}", flush=True)
        try:
            key = pod.key(pod.with_images(read_config_file(path), parsed.batch_per_chip))
            record = read_record(parsed.record_path(path), key)
            if record is not None and (record["largest"] or not parsed.find_batch):
                print("done before", flush=True)
            else:
                print("compiling", flush=True)
                record = compile_config(parsed, path)
            records[path] = record
        except UserError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            failed.append(path)
            continue
        except subprocess.CalledProcessError:
            failed.append(path)
            continue
        if parsed.out is not None:
            with replacing(parsed.out) as new, open(new, "w", encoding="utf-8") as file:
                file.write(table(records, parsed))
    if records:
        print(table(records, parsed), end="")
    if failed:
        raise UserError(f"failed: {', '.join(failed)}; the same command tries them again")


if __name__ == "__main__":
    program(main)
