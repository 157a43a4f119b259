"""Settings, files and processes that the tests of the application share."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from PIL import Image

from attnjax.training import TrainState
from train import load_run
from train.config import Config, DataConfig
from train.config.flags import read_config_file
from train.data import Reader, Split, image_shape
from train.runs.provenance import digest

ROOT = Path(__file__).resolve().parents[2]
DIGITS = str(ROOT / "configs" / "digits" / "digits_cbam.py")
SMALL = str(ROOT / "tests" / "train" / "tiny.py")


def replace(config: Any, changes: dict[str, Any]) -> Any:
    """Replaces settings by their names on the command line, one after the other."""
    for name, value in changes.items():
        head, _, rest = name.partition(".")
        value = replace(getattr(config, head), {rest: value}) if rest else value
        config = dataclasses.replace(config, **{head: value})
    return config


def small(changes: dict[str, Any] | None = None) -> Config:
    """6 steps of the smallest net, evaluated and saved every 2."""
    config = dataclasses.replace(read_config_file(SMALL), total_epochs=None, total_steps=6)
    return replace(config, {"evaluate_every_steps": 2, "checkpoint_every_steps": 2} | (changes or {}))


def state_at(step: int) -> TrainState:
    """A state with a few values, all of which tell the step."""
    values = jnp.arange(6, dtype=jnp.float32).reshape(2, 3) / 7 + step
    variables = {"params": {"fc": {"kernel": values}}, "batch_stats": {"bn": {"mean": values[0] * 3}}}
    return TrainState(jnp.asarray(step, jnp.int32), variables, (values * 2, jnp.asarray(step, jnp.int32)), None)


def write_images(folder: Path, count: int = 2, shape: tuple[int, ...] = (8, 8), seed: int = 0) -> list[Path]:
    """Writes PNG files of noise into a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed)
    paths = [folder / f"{index:02}.png" for index in range(count)]
    for path in paths:
        Image.fromarray(noise.integers(0, 256, shape, np.uint8)).save(path)
    return paths


def write_two_classes(folder: Path) -> Path:
    """Writes noise of the classes a and b into a folder: 50 images to train on, 103 to test on."""
    parts = [("train", "a", 30), ("train", "b", 20), ("test", "a", 60), ("test", "b", 43)]
    for seed, (part, name, count) in enumerate(parts):
        write_images(folder / part / name, count, seed=seed)
    return folder


def in_flags(settings: Mapping[str, object]) -> list[str]:
    """Settings as they are given on the command line."""
    return [f"--{name}={value}" for name, value in settings.items()]


def cached(cache: Path) -> dict[str, str]:
    """Variables for a process that keeps its compiled programs in a folder."""
    return {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


def environment(cache: Path | None, devices: int = 1) -> dict[str, str]:
    """Variables for a process on so many devices; compiled programs come from a folder where one is given."""
    variables = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    return variables if cache is None else variables | cached(cache)


def run(
    module: str, *arguments: object, cache: Path | None = None, devices: int = 1
) -> subprocess.CompletedProcess[str]:
    """Runs `python -m MODULE ARGUMENTS...` in the checkout, on one device where no other number is given."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    options: Any = {"cwd": ROOT, "env": environment(cache, devices), "capture_output": True, "text": True}
    return subprocess.run(command, check=False, **options)


def lines(done: subprocess.CompletedProcess[str]) -> list[str]:
    """What a process that went well printed."""
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@contextlib.contextmanager
def training(*arguments: object, cache: Path | None = None, devices: int = 1) -> Iterator[subprocess.Popen[str]]:
    """Trains in a process group of its own, whose standard output can be read; what still runs at the end is killed."""
    command = [sys.executable, "-m", "train", *map(str, arguments)]
    options: Any = {"cwd": ROOT, "env": environment(cache, devices), "text": True}
    with subprocess.Popen(
        command, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def kill_at(step: int, *arguments: object, cache: Path | None = None) -> None:
    """Trains, and kills the process as soon as it tells of a step."""
    with training(*arguments, cache=cache) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert any(line.startswith(f"step {step}/") for line in process.stdout), process.stderr.read()
    assert process.returncode == -signal.SIGKILL


def figures(workdir: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, without what the clock says."""
    records = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in record.items() if name != "images_per_second"} for record in records]


def outcome(workdir: Path) -> tuple[str, list[dict[str, Any]]]:
    """What a run ends with: the digest of its last state, and all figures."""
    return digest(load_run(str(workdir)).variables), figures(workdir)


class Arrays:
    """A split of images and labels in memory."""

    def __init__(self, images: Sequence[np.ndarray] | np.ndarray, labels: np.ndarray) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return self.images[index], int(self.labels[index])

    def name(self, index: int) -> str:
        return str(index)


def reader_of_split(split: Split, config: DataConfig) -> Reader:
    """A reader of images in the shape that the split's own first image gives."""
    return Reader(split, config, image_shape(split, config))
