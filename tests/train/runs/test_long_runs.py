"""Whole runs of the embedded default."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.train.support import DIGITS, lines, run


@pytest.mark.slow
def test_the_embedded_default_gets_98_5_percent_and_repeats_itself(tmp_path: Path):
    digests = set()
    for name in ("first", "second"):
        accuracy = lines(run("train", DIGITS, "--workdir", tmp_path / name))[-1]
        assert float(accuracy.removeprefix("test_accuracy=")) >= 0.985
        digests.add(lines(run("train.evaluate", "--workdir", tmp_path / name, "--digest"))[-1])
    assert len(digests) == 1
