"""Collects every fixture of a folder: the stored copy, or --golden DIR."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.golden.reference import Fixture

SLOW_MACS = 2e9
"""A gradient step in float64 of more multiply-accumulates than this is marked slow."""


CHECKED = ("block", "cam", "model", "ggam")
"""Kinds of fixtures that are compared."""


def read_index(folder: Path) -> list[dict[str, str]]:
    """The index's entries, each with at least `id`, `kind`, `family` and `path`."""
    entries: list[dict[str, str]] = json.loads((folder / "index.json").read_text())["fixtures"]
    return entries


def find_fixtures(folder: Path, kind: str) -> list[Fixture]:
    """All fixtures of a kind, in the index's order."""
    return [Fixture(folder, entry["path"]) for entry in read_index(folder) if entry["kind"] == kind]


def cost(fixture: Fixture) -> int:
    """Multiply-accumulates of the fixture's training step, forward."""
    _, _, *train = fixture.manifest["train"]["shape"]
    _, _, *trial = fixture.manifest["eval"]["shape"]
    pixels = train[0] * train[1] / (trial[0] * trial[1])
    return int(fixture.manifest["macs"] * fixture.manifest["train"]["shape"][0] * pixels)


def with_gradients(folder: Path, full: bool) -> list[Fixture]:
    """Nets whose gradients are checked: all that have them, or the cheapest of each family."""
    fixtures = [fixture for fixture in find_fixtures(folder, "model") if "train64/loss" in fixture.keys]
    return fixtures if full else cheapest(fixtures, lambda fixture: fixture.manifest["family"])


def nets(folder: Path, full: bool) -> list[Fixture]:
    """Nets whose size and logits are checked: all, or the cheapest of those whose names differ in numbers alone."""
    fixtures = find_fixtures(folder, "model")
    return fixtures if full else cheapest(fixtures, lambda fixture: re.sub(r"\d+", "", fixture.manifest["id"]))


def cheapest(fixtures: list[Fixture], key: Callable[[Fixture], str]) -> list[Fixture]:
    """The cheapest of the nets that have the same key."""
    groups: dict[str, list[Fixture]] = {}
    for fixture in fixtures:
        groups.setdefault(key(fixture), []).append(fixture)
    return [min(group, key=cost) for group in groups.values()]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    folder, full = metafunc.config.getoption("--golden"), metafunc.config.getoption("--full")
    for argument in {*CHECKED, "trained_model"} & set(metafunc.fixturenames):
        chosen = {"model": nets, "trained_model": with_gradients}
        found = chosen[argument](folder, full) if argument in chosen else find_fixtures(folder, argument)
        slow = [argument == "trained_model" and cost(fixture) > SLOW_MACS for fixture in found]
        cases = [
            pytest.param(fixture, id=fixture.manifest["id"], marks=pytest.mark.slow if is_slow else ())
            for fixture, is_slow in zip(found, slow, strict=True)
        ]
        metafunc.parametrize(argument, cases)
