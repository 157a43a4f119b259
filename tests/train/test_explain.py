"""Galleries of runs, as files."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from train import explain, load_run
from train.data import open_dataset
from train.runs.record import read_run
from train.tasks.classification import Evaluation

Trained = tuple[Path, Evaluation]
Fails = Callable[..., str]


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return image.size


def test_test_images_are_drawn_with_their_own_class(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "e.png"
    explain.main(["--workdir", str(trained[0]), "--count", "3", "--out", str(out)])
    assert capsys.readouterr().out == f"{out}\n"
    alone = size(out)
    explain.main(["--workdir", str(trained[0]), "--compare", str(trained[0]), "--count", "3", "--out", str(out)])
    assert size(out)[0] > alone[0]
    assert [path.name for path in tmp_path.iterdir()] == ["e.png"]


def test_files_are_drawn_with_the_answer(trained: Trained, digit_files: list[Path], tmp_path: Path):
    out = tmp_path / "e.png"
    explain.main([*map(str, digit_files[:2]), "--workdir", str(trained[0]), "--layer", "stem", "--out", str(out)])
    assert size(out)[1] > 0


def test_a_column_has_the_class_and_its_probability(trained: Trained):
    run, loaded = read_run(str(trained[0])), load_run(str(trained[0]))
    pictures = explain.held_out(run, 4)
    assert pictures.images.shape == (4, 8, 8, 1)
    test = open_dataset(run.config.data).test
    assert pictures.labels is not None
    assert pictures.labels.tolist() == [test[place][1] for place in (0, 120, 239, 359)]
    arguments = explain.Arguments((), str(trained[0]))
    title, maps, captions = explain.column("net", loaded, pictures, arguments)
    assert title == f"net\n{arguments.method}, {arguments.layer or 'stage1'}"
    assert maps.shape == (4, 8, 8)
    assert float(np.max(maps)) <= 1
    logits: Any = loaded.model.apply(loaded.variables, loaded.preprocess(pictures.images), train=False)
    shares = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = [f"{label} {row[label]:.2f}" for label, row in zip(pictures.labels.tolist(), shares, strict=True)]
    assert captions == expected


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--layer", "stage9"], "error: unknown layer='stage9': did you mean stage"),
        (
            ["--method", "grad_kam"],
            r"error: method='grad_kam' is not one of 'grad_cam', .*: did you mean 'grad_cam'\?$",
        ),
        (["--count", "0"], "error: --count=0 must be at least 1"),
        (["--count", "2", "image.png"], "error: --count=2 is the number of test images"),
        (["--out", "/dev/null/e.png"], "error: cannot write /dev/null/e.png: Not a directory"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(trained: Trained, fails: Fails, flags: list[str], message: str):
    assert re.match(message, fails(explain.main, "--workdir", trained[0], "--count", "1", *flags))
