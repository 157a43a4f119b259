"""Whole runs of the embedded default."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.train.support import DIGITS, lines, run


@pytest.mark.full
@pytest.mark.slow
def test_the_embedded_default_gets_98_5_percent(tmp_path: Path):
    accuracy = lines(run("train", DIGITS, "--workdir", tmp_path))[-1]
    assert float(accuracy.removeprefix("test_accuracy=")) >= 0.985
