"""The printed table of nets."""

from __future__ import annotations

import subprocess
import sys

import pytest

import attnjax
from attnjax import __main__ as program


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["attnjax", *arguments])
    return program.main()


def test_a_row_has_the_size_and_the_published_results(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "cbam_resnet50") == 0
    header, row = capsys.readouterr().out.splitlines()
    assert header.split()[:3] == ["name", "parameters", "GMACs"]
    assert row.split()[:5] == ["cbam_resnet50", "28,089,624", "4.0956", "224x224", "1000"]
    assert "22.38 / 6.05, Jongchan/attention-module README" in row
    assert "(22.66 / 6.31), CBAM paper" in row


def test_markdown_has_a_line_for_each_net() -> None:
    lines = program.markdown("cbam_*").splitlines()
    assert [line.split(" | ")[0][2:] for line in lines[2:]] == attnjax.list_models("cbam_*")
    assert {line.count("|") for line in lines} == {8}


def test_no_match_is_an_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "nothing*") == 2
    assert capsys.readouterr().err == "no net is called 'nothing*': python -m attnjax lists them all\n"
    assert run(monkeypatch, "bam_resnet5") == 2
    assert "did you mean bam_resnet50" in capsys.readouterr().err


def test_a_reader_that_stops_early_is_no_error() -> None:
    command = f"{sys.executable} -m attnjax | head -1"
    result = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert (result.stderr, result.stdout.split()[:1]) == ("", ["name"])


def test_it_runs_as_a_module() -> None:
    command = [sys.executable, "-m", "attnjax", "se_resnet50"]
    assert "28,088,024" in subprocess.run(command, capture_output=True, text=True, check=True).stdout
