"""One trained run and one prepared TFDS set for all tests; every program is compiled once."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache
from PIL import Image

from tests.train.support import small, write_images
from train import train
from train.config.flags import program
from train.data import open_dataset
from train.tasks.classification import Evaluation


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of compiled programs, for processes on one device."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True, scope="session")
def _compile_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keeps compiled programs, so that only the first run of a net pays for its compilation."""
    settings = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("cache8")),
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    old = {name: getattr(jax.config, name) for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield
    for name, value in old.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, _compile_once: None) -> tuple[Path, Evaluation]:
    """Folder and figures of a finished run of `small()`. Do not write there."""
    workdir = tmp_path_factory.mktemp("trained")
    return workdir, train(small(), str(workdir))


@pytest.fixture
def fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a program that must end in one line on standard error and exit code 2; returns the line."""

    def run(main: Callable[..., None], *arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["program", *map(str, arguments)])
        monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)  # put back what `program` replaces
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            program(main)
        said = capsys.readouterr().err.splitlines()
        assert stop.value.code == 2
        assert len(said) == 1
        assert said[0].startswith("error: ")
        return said[0]

    return run


@pytest.fixture(scope="session")
def digit_files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The first 5 test digits, as gray PNG files."""
    folder, test = tmp_path_factory.mktemp("digits"), open_dataset(small().data).test
    paths = [folder / f"{index}.png" for index in range(5)]
    for index, path in enumerate(paths):
        Image.fromarray(test[index][0][..., 0]).save(path)
    return paths


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Folders train and test, each with classes a (3 images) and b (2 images), gray, 8x8."""
    for seed, part in enumerate(("train", "test")):
        write_images(tmp_path / "images" / part / "a", 3, seed=seed)
        write_images(tmp_path / "images" / part / "b", 2, seed=seed + 2)
    return tmp_path / "images"


@pytest.fixture(scope="session")
def tfds_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared TFDS set `tiny_digits`: 40 training and 20 test images of the embedded digits."""
    from tests.train.tiny_digits import prepare  # it imports tensorflow_datasets, which most tests do without

    path = tmp_path_factory.mktemp("tfds")
    prepare(path)
    return path
