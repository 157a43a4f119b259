"""No fixture is passed over in silence."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.golden.conftest import CHECKED, read_index


def test_every_kind_of_fixture_is_checked(pytestconfig: pytest.Config) -> None:
    folder: Path = pytestconfig.getoption("--golden")
    assert {entry["kind"] for entry in read_index(folder)} <= set(CHECKED)
