"""README and docs: their Python runs, their commands parse, and what they name is there.

A block of Python after `<!-- not run: REASON -->`, which readers do not see, is compiled only and counted as skipped.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import CodeType
from typing import Any, NamedTuple

import jax
import pytest
import tyro

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *(page for page in sorted((ROOT / "docs").rglob("*.md")) if "_build" not in page.parts)]


class Block(NamedTuple):
    """A fenced block of a page."""

    language: str
    code: str
    line: int
    not_run: str | None

    def compile(self, page: Path) -> CodeType:
        """Its line numbers are the page's."""
        return compile("\n" * (self.line - 1) + self.code, page, "exec")


def blocks(page: Path, language: str) -> list[Block]:
    text = page.read_text()
    fenced = re.finditer(r"^(?:<!-- not run: (.+?) -->\n)?```(\w+)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    found = [Block(m[2], m[3], text.count("\n", 0, m.start(3)) + 1, m[1]) for m in fenced]
    return [block for block in found if block.language == language]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


PROGRAMS = [page for page in PAGES if any(block.not_run is None for block in blocks(page, "python"))]
NOT_RUN = [(page, block) for page in PAGES for block in blocks(page, "python") if block.not_run]
COMMANDS = [page for page in PAGES if blocks(page, "sh")]


@pytest.mark.parametrize("page", PROGRAMS, ids=name)
def test_python_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for block in blocks(page, "python"):
            if block.not_run is None:
                exec(block.compile(page), namespace)


@pytest.mark.parametrize(("page", "block"), NOT_RUN, ids=[name(page) for page, _ in NOT_RUN])
def test_python_that_does_not_run_compiles(page: Path, block: Block) -> None:
    block.compile(page)
    pytest.skip(f"{name(page)}, line {block.line}: {block.not_run}")


class Parsed(Exception):
    """A program has parsed its command."""


@pytest.fixture
def parses(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str]], None]:
    """Runs a program until it has parsed its arguments."""

    def stop_after(owner: Any, function: str) -> None:
        original = getattr(owner, function)

        def stopped(*args: Any, **kwargs: Any) -> None:
            original(*args, **kwargs)
            raise Parsed

        monkeypatch.setattr(owner, function, stopped)

    def run(words: list[str]) -> None:
        module, *arguments = words
        package = importlib.util.find_spec(module)
        assert package is not None, f"there is no program {module}"
        if package.submodule_search_locations:
            module += ".__main__"
        monkeypatch.setattr(sys, "argv", [module, *arguments])
        main = importlib.import_module(module).main
        with pytest.raises((Parsed, SystemExit)) as stopped:
            main(arguments) if inspect.signature(main).parameters else main()
        assert not getattr(stopped.value, "code", None)  # of --help: 0

    stop_after(tyro, "cli")
    stop_after(argparse.ArgumentParser, "parse_args")
    return run


@pytest.mark.parametrize("page", COMMANDS, ids=name)
def test_commands_parse(
    page: Path, parses: Callable[[list[str]], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for block in blocks(page, "sh"):
        for line in block.code.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words and re.match(r"[A-Z_]+=", words[0]):
                words.pop(0)
            match words:
                case []:
                    pass
                case ["python", "-m", *rest]:
                    parses(rest)
                case ["python", script]:
                    assert (ROOT / script).is_file(), line
                case ["make", *targets]:
                    assert set(targets) <= set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
                case ["pip", "install", *what]:
                    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
                    named = {extra for word in what for extra in re.findall(r"[\w-]+", word.partition("[")[2])}
                    assert named <= {*extras, "cuda12", "cuda13", "tpu", "k8s"}, line
                case _:
                    pytest.fail(f"{name(page)} has a command that this test does not know: {line}")


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_paths_exist(page: Path) -> None:
    text = page.read_text()
    for path in re.findall(r"`((?:attnjax|configs|docs|notebooks|tests|train)/[\w./]+)`", text):
        assert (ROOT / path).exists(), path
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (page.parent / link).exists(), link


def test_the_readme_is_short() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.encode()) <= 12 * 1024


@pytest.mark.slow
@pytest.mark.full
def test_the_script_of_the_digits_reaches_98_percent() -> None:
    command = [sys.executable, str(ROOT / "docs" / "digits.py")]
    environment = os.environ | {"XLA_FLAGS": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert float(done.stdout.split()[-1]) >= 0.98
