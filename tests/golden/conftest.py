"""Collects every fixture of a folder: the stored copy, or --golden DIR."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from tests.golden.reference import Fixture
from tests.kinds import one_of_each_kind, without_numbers

CHECKED = ("block", "cam", "model", "ggam")
"""Kinds of fixtures that are compared."""
LARGE_MACS = {"trained_model": 2e8, "model": 4e9}
"""Nets of more multiply-accumulates are checked with --full alone: gradients in float64, and logits."""


FULL_DETECTIONS = {
    "detection/loss/roi_heads/one_image_empty",
    "detection/net/mask_rcnn/maskrcnn_resnet18_fpn32_frozen_bn",
    "detection/operator/roi_align/stride16_out7x7",
    "detection/operator/roi_align/stride8_out5x9",
}
"""The longest of a kind of which another is always checked, or all of whose parts are: with --full alone."""


def read_index(folder: Path) -> list[dict[str, str]]:
    """The index's entries, each with at least `id`, `kind`, `family` and `path`."""
    entries: list[dict[str, str]] = json.loads((folder / "index.json").read_text())["fixtures"]
    return entries


def find_fixtures(folder: Path, kind: str) -> list[Fixture]:
    """All fixtures of a kind, in the index's order."""
    return [Fixture(folder, entry["path"]) for entry in read_index(folder) if entry["kind"] == kind]


def name(fixture: Fixture) -> str:
    return str(fixture.manifest["id"])


def kind(fixture: Fixture) -> str:
    """Of maps, one fixture for given classes and one for the classes that the net finds."""
    if fixture.manifest["kind"] == "cam":
        return f"targets_given={fixture.manifest['targets_given']}"
    return without_numbers(name(fixture))


def with_gradients(folder: Path) -> list[Fixture]:
    return [fixture for fixture in find_fixtures(folder, "model") if "train64/loss" in fixture.keys]


def family(fixture: Fixture) -> str:
    return str(fixture.manifest["family"])


def cost(fixture: Fixture) -> Any:
    """Multiply-accumulates of a net, input values of a block; of maps, all methods are wanted for given classes."""
    if fixture.manifest["kind"] == "cam":
        return len(fixture.manifest["methods"]) * (-1 if fixture.manifest["targets_given"] else 1)
    return fixture.manifest.get("macs") or fixture.input_size("eval")


def parameters(argument: str, folder: Path) -> list[Any]:
    """Every fixture that an argument of a test stands for."""
    fixtures, of = find_fixtures(folder, argument), kind
    if argument == "trained_model":
        fixtures, of = with_gradients(folder), family
    limit = LARGE_MACS.get(argument, math.inf)
    return one_of_each_kind(
        fixtures, of, cost, name, lambda fixture: [pytest.mark.full] if cost(fixture) > limit else []
    )


def detections(folder: Path, kind: str) -> list[Any]:
    """Every detection fixture of a kind."""
    index = folder / "detection" / "index.json"
    entries = json.loads(index.read_text())["fixtures"] if index.exists() else []
    return [
        pytest.param(
            Fixture(folder, entry["path"]),
            id=entry["id"],
            marks=[pytest.mark.full] if entry["id"] in FULL_DETECTIONS else [],
        )
        for entry in entries
        if entry["kind"] == kind
    ]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    folder = metafunc.config.getoption("--golden")
    for argument in metafunc.fixturenames:
        if argument.startswith("detection_"):
            metafunc.parametrize(argument, detections(folder, argument.removeprefix("detection_")))
    for argument in {*CHECKED, "trained_model"} & set(metafunc.fixturenames):
        metafunc.parametrize(argument, parameters(argument, folder))
