"""The benchmark program: its report, its table and its errors. Nothing here asserts a time."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from attnjax.layers._native import are_native
from train import benchmark
from train.config.errors import UserError


def test_a_net_is_compiled_and_its_steps_are_timed(capsys: pytest.CaptureFixture[str]) -> None:
    benchmark.main(["model", "resnet20_cifar", "--image_size", "8", "--batch", "2", "--steps", "2"])
    first, second, third = capsys.readouterr().out.splitlines()
    assert first.startswith("resnet20_cifar, 8x8, batch 2, float32; ")
    assert float(re.fullmatch(r"compile_seconds=([\d.]+)", second)[1]) > 0  # type: ignore[index]
    assert re.fullmatch(r"step_milliseconds=[\d.]+ \(least [\d.]+, most [\d.]+, 2 steps\)", third)


def test_native_convolutions_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(benchmark, "measure_model", lambda _: seen.append(are_native()))
    benchmark.main(["model", "resnet20_cifar", "--native", "True"])
    benchmark.main(["model", "resnet20_cifar"])
    assert seen == [True, False]


def test_the_table_has_each_form_that_fits_and_marks_the_chosen_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = (benchmark.Shape("depthwise", 6, 8, 8, 3, groups=8), benchmark.Shape("1x1", 6, 8, 16, 1))
    monkeypatch.setattr(benchmark, "_SHAPES", shapes)
    benchmark.main(["layers", str(tmp_path / "table.md"), "--repeats", "1"])
    header, _, *rows = [line for line in (tmp_path / "table.md").read_text().splitlines() if line.startswith("|")]
    columns = [cell.strip() for cell in header.split("|")]
    chosen = [columns[[cell.strip()[:2] for cell in row.split("|")].index("**")] for row in rows]
    assert chosen == ["shifted_products", "matrix_product"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model", "resnet51"], "unknown model 'resnet51': did you mean"),
        (["model", "resnet20_cifar", "--batch", "0"], "--batch=0 must be at least 1"),
        (["layers", "table.md", "--repeats", "0"], "--repeats=0 must be at least 1"),
        (["layers", "nowhere/table.md"], "OUT=nowhere/table.md: there is no folder nowhere"),
        (["model", "attention56", "--image_size", "8"], "at least"),
    ],
)
def test_wrong_arguments_are_named(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        benchmark.main(arguments)
