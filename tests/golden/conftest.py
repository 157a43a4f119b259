"""Collects every fixture of a folder: the stored copy, or --golden DIR."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.golden.reference import Fixture
from tests.kinds import one_of_each_kind, without_numbers

CHECKED = ("block", "cam", "model", "ggam")
"""Kinds of fixtures that are compared."""
LARGE_MACS = 2e8
"""The gradients in float64 of nets of more multiply-accumulates are checked with --full alone."""


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


def marks(fixture: Fixture) -> list[pytest.MarkDecorator]:
    return [pytest.mark.full] if cost(fixture) > LARGE_MACS else []


def parameters(argument: str, folder: Path) -> list[Any]:
    """Every fixture that an argument of a test stands for."""
    if argument == "trained_model":
        return one_of_each_kind(with_gradients(folder), family, cost, name, marks)
    return one_of_each_kind(find_fixtures(folder, argument), kind, cost, name)


def detections(folder: Path, kind: str) -> list[Any]:
    """Every detection fixture of a kind."""
    index = folder / "detection" / "index.json"
    entries = json.loads(index.read_text())["fixtures"] if index.exists() else []
    return [pytest.param(Fixture(folder, e["path"]), id=e["id"]) for e in entries if e["kind"] == kind]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    folder = metafunc.config.getoption("--golden")
    for argument in metafunc.fixturenames:
        if argument.startswith("detection_"):
            metafunc.parametrize(argument, detections(folder, argument.removeprefix("detection_")))
    for argument in {*CHECKED, "trained_model"} & set(metafunc.fixturenames):
        metafunc.parametrize(argument, parameters(argument, folder))
