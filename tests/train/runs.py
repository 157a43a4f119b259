"""Settings, files and processes that the tests of the application share."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from train.cli import read_config_file
from train.config import Config, DataConfig
from train.data import Reader, Split, image_shape

ROOT = Path(__file__).resolve().parents[2]
DIGITS = str(ROOT / "configs" / "digits_cbam.py")
SMALL = ("--model.name", "resnet20_cifar", "--data.batch_size", "16", "--log_every_steps", "2")


def replace(config: Any, changes: dict[str, Any]) -> Any:
    """Replaces settings by their names on the command line, one after the other."""
    for name, value in changes.items():
        head, _, rest = name.partition(".")
        value = replace(getattr(config, head), {rest: value}) if rest else value
        config = dataclasses.replace(config, **{head: value})
    return config


def small(changes: dict[str, Any] | None = None) -> Config:
    """The embedded default with the smallest net, 6 steps of 16, evaluated and saved every 2."""
    config = dataclasses.replace(read_config_file(DIGITS), total_epochs=None, total_steps=6)
    every = {f"{what}_every_steps": 2 for what in ("log", "evaluate", "checkpoint")}
    cut = {"model.name": "resnet20_cifar", "data.batch_size": 16, **every}
    return replace(config, cut | (changes or {}))


def write_images(folder: Path, count: int = 2, shape: tuple[int, ...] = (8, 8), seed: int = 0) -> list[Path]:
    """Writes PNG files of noise into a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed)
    paths = [folder / f"{index:02}.png" for index in range(count)]
    for path in paths:
        Image.fromarray(noise.integers(0, 256, shape, np.uint8)).save(path)
    return paths


def environment(cache: Path | None) -> dict[str, str]:
    """Variables for a process on one device; compiled programs come from a folder where one is given."""
    kept = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    if cache is None:
        return kept
    return kept | {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


def run(module: str, *arguments: object, cache: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Runs `python -m MODULE ARGUMENTS...` in the checkout, on one device."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    options: Any = {"cwd": ROOT, "env": environment(cache), "capture_output": True, "text": True}
    return subprocess.run(command, check=False, **options)


def lines(done: subprocess.CompletedProcess[str]) -> list[str]:
    """What a process that went well printed."""
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def kill_at(step: int, *arguments: object, cache: Path | None = None) -> None:
    """Trains in a process group of its own, and kills it as soon as it tells of a step."""
    command = [sys.executable, "-m", "train", *map(str, arguments)]
    options: Any = {"cwd": ROOT, "env": environment(cache), "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, start_new_session=True, **options) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(f"step {step}/"):
                break
        os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL


def reader_of_split(split: Split, config: DataConfig) -> Reader:
    """A reader of images in the shape that the split's own first image gives."""
    return Reader(split, config, image_shape(split, config))
