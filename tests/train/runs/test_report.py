"""What the processes that are not the first have in place of a report."""

from __future__ import annotations

import inspect

import pytest

from train.runs.report import NullReport, Report


@pytest.mark.parametrize("name", [name for name in vars(Report) if not name.startswith("_")])
def test_it_takes_whatever_a_report_does(name: str):
    arguments = inspect.signature(getattr(Report, name)).parameters
    assert getattr(NullReport(), name)(**dict.fromkeys(list(arguments)[1:])) is None
