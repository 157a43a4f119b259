"""Figures of the structure of a checkout: python -m tests.structure [--root DIR] [--frames]

Without --frames it reads the files: training steps, arrows and floors of train/, lines of code, and the size of the
README. With it, it trains one step and lists our files that have a frame until then.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import io
import json
import re
import subprocess
import sys
import tempfile
import tokenize
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeGuard

ROOT = Path(__file__).resolve().parents[1]


def module_name(path: Path, root: Path) -> str:
    """Dotted name of a file; a package is named as its folder."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules(root: Path, *packages: str) -> dict[str, Path]:
    """The files of packages of a checkout, by module name."""
    return {module_name(path, root): path for package in packages for path in sorted((root / package).rglob("*.py"))}


def imported(path: Path, root: Path, known: Collection[str]) -> set[str]:
    """All that a file imports, anywhere in it.

    `from a import b` imports the module `a.b` if that is known, and otherwise `a`.
    """
    package = path.relative_to(root).parent.parts
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*start, *([node.module] if node.module else [])])
            inside = (f"{module}.{alias.name}" for alias in node.names)
            names |= {name if name in known else module for name in inside}
    return names


def arrows(files: Mapping[str, Path], root: Path) -> dict[str, set[str]]:
    """By module: the other ones of `files` that it imports."""
    return {name: (imported(path, root, files) & files.keys()) - {name} for name, path in files.items()}


def floors(graph: Mapping[str, Iterable[str]]) -> list[str]:
    """The longest chain of modules, each of which imports the next one."""
    longest: dict[str, list[str]] = {}

    def chain(name: str, above: frozenset[str]) -> list[str]:
        if name not in longest:
            below = [chain(target, above | {name}) for target in sorted(graph[name]) if target not in above]
            longest[name] = [name, *max(below, key=len, default=[])]
        return longest[name]

    return max((chain(name, frozenset()) for name in sorted(graph)), key=len, default=[])


def code_lines(text: str) -> int:
    """Lines with code: neither blank nor a comment nor part of a docstring."""
    documented: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            documented |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    nothing = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in nothing:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return len(lines - documented)


_Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


def training_steps(source: str) -> list[str]:
    """The functions of a program that differentiate and then update parameters, in themselves or by calling others.

    An update is a call of `apply_updates`, `apply_gradients` or of a method `update` with several arguments, or a
    `tree.map` of a subtraction. Only the innermost function that does both counts.
    """
    tree = ast.parse(source)
    functions = [node for node in ast.walk(tree) if isinstance(node, _Function)]
    by_name = {node.name: node for node in functions if not isinstance(node, ast.Lambda)}

    def used(node: ast.AST) -> list[ast.AST]:
        inner = [child for child in ast.walk(node) if child is not node and isinstance(child, _Function)]
        names = {child.id for child in ast.walk(node) if isinstance(child, ast.Name)}
        methods = {child.attr for child in ast.walk(node) if _is_of_self(child)}
        called = [by_name[name] for name in names | methods if name in by_name]
        return [*inner, *(other for other in called if other is not node)]

    def acts(node: ast.AST, seen: frozenset[ast.AST] = frozenset()) -> set[str]:
        if node in seen:
            return set()
        found = {act for child in ast.walk(node) if isinstance(child, ast.Call) for act in _acts(child)}
        return found.union(*(acts(other, seen | {node}) for other in used(node)))

    both = [node for node in functions if acts(node) == {"differentiate", "update"}]
    innermost = [node for node in both if not any(other in both for other in used(node))]
    return [getattr(node, "name", f"lambda in line {node.lineno}") for node in innermost]


def _is_of_self(node: ast.AST) -> TypeGuard[ast.Attribute]:
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"


def _acts(call: ast.Call) -> Iterator[str]:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name in ("grad", "value_and_grad", "vjp"):
        yield "differentiate"
    if name in ("apply_updates", "apply_gradients"):
        yield "update"
    if name == "update" and isinstance(call.func, ast.Attribute) and len(call.args) > 1:
        yield "update"
    if name in ("map", "tree_map") and call.args and isinstance(call.args[0], ast.Lambda):
        operation = call.args[0].body
        if isinstance(operation, ast.BinOp) and isinstance(operation.op, ast.Sub):
            yield "update"


def programs(root: Path) -> Iterator[tuple[str, str]]:
    """Name and text of all Python of a checkout but for its tests: files, notebooks, and blocks of Markdown."""
    hidden = {path.name for path in root.iterdir() if path.name.startswith(".")} | {"tests", "runs"}
    for path in sorted(root.rglob("*")):
        inside = path.relative_to(root)
        if inside.parts[0] in hidden:
            continue
        if path.suffix == ".py":
            yield str(inside), path.read_text()
        elif path.suffix == ".ipynb":
            cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
            text = "\n".join("".join(cell["source"]) for cell in cells)
            yield str(inside), re.sub(r"^( *)[%!].*", r"\1pass", text, flags=re.MULTILINE)  # commands of notebooks
        elif path.suffix == ".md":
            blocks = re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL)
            yield str(inside), "\n".join(blocks)


_RECORD = """
import json, runpy, sys, threading
sys.path.insert(0, "")
_, root, out, *flags = sys.argv
steps = {("attnjax/training/_step.py", "TrainStep.__call__")}
before, after = {}, {}
files = before

def record(frame, event, _):
    global files
    code = frame.f_code
    if not code.co_filename.startswith(root):
        return
    file, name = code.co_filename[len(root) + 1:], code.co_qualname
    # Modules and bodies of classes have no such flag; comprehensions on top of a module are part of its import, too.
    if event == "call" and code.co_flags & 1 and name not in ("<genexpr>", "<dictcomp>", "<listcomp>", "<setcomp>"):
        files.setdefault(file, []).append(name)
    elif event == "return" and (file, name) in steps:
        files = after

threading.setprofile(record)
sys.setprofile(record)
sys.argv = ["train", *flags]
try:
    runpy.run_module("train", run_name="__main__", alter_sys=True)
finally:
    sys.setprofile(None)
    with open(out, "w") as lines:
        json.dump([{file: sorted(set(names)) for file, names in each.items()} for each in (before, after)], lines)
"""

Functions = dict[str, list[str]]


def frames(root: Path) -> tuple[Functions, Functions]:
    """By file: its functions that run when `python -m train` takes one step on the digits.

    Returns:
      Those before the step is traced, its tracing included, and those after that.
    """
    config = next(root.glob("configs/**/digits_cbam.py"))
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "frames.json"
        flags = [str(config), "--total_steps", "1", "--workdir", f"{folder}/run"]
        command = [sys.executable, "-c", _RECORD, str(root), str(out), *flags]
        subprocess.run(command, cwd=root, capture_output=True, check=True)
        before, after = json.loads(out.read_text())
    return before, after


def _report_files(root: Path) -> None:
    steps = {name: training_steps(text) for name, text in programs(root)}
    steps = {name: found for name, found in steps.items() if found}
    print(f"training steps: {sum(map(len, steps.values()))} in {len(steps)} files")
    for name, found in steps.items():
        print(f"  {name}: {', '.join(found)}")
    train = modules(root, "train")
    graph = arrows(train, root)
    chain = floors(graph)
    top = [name for name, path in train.items() if path.parent.name == "train"]
    print(f"train/: {len(train)} files, {len(top)} of them on top, {sum(map(len, graph.values()))} arrows, ", end="")
    print(f"{len(chain)} floors")
    print(f"  {' > '.join(chain)}")
    for title, folders in (("attnjax/ + train/", ("attnjax", "train")), ("tests/", ("tests",))):
        lines = sum(code_lines(path.read_text()) for path in modules(root, *folders).values())
        print(f"{title}: {lines} lines of code")
    print(f"README.md: {(root / 'README.md').stat().st_size} bytes")


def _report_frames(root: Path) -> None:
    before, after = frames(root)
    for package in ("train", "attnjax"):
        files = [str(path.relative_to(root)) for path in modules(root, package).values() if path.stem != "__init__"]
        ran = [file for file in files if file in before]
        later = [file for file in files if file in after and file not in before]
        print(f"{package}/: {len(ran)} of {len(files)} files have a frame before the first training step, ", end="")
        print(f"{len(ran) + len(later)} in a run of one step")
        for file in ran:
            print(f"  {file}: {', '.join(before[file])}")
        for file in later:
            print(f"  {file}, after the step: {', '.join(after[file])}")


def main() -> None:
    """Reads the flags and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=ROOT, help="folder of the checkout")
    parser.add_argument("--frames", action="store_true", help="train one step and list the files that have a frame")
    arguments = parser.parse_args()
    with contextlib.suppress(BrokenPipeError):
        (_report_frames if arguments.frames else _report_files)(arguments.root.resolve())


if __name__ == "__main__":
    main()
