"""The package as a whole: what it imports, what it promises in print, and its examples."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import attnjax

PACKAGES = [
    attnjax,
    attnjax.attention,
    attnjax.convert,
    attnjax.explain,
    attnjax.layers,
    attnjax.losses,
    attnjax.models,
]
MODULES = [module.name for module in pkgutil.walk_packages(attnjax.__path__, "attnjax.")]


def test_import_pulls_in_nothing_heavy() -> None:
    heavy = [
        "tensorflow",
        "torch",
        "tensorflow_datasets",
        "optax",
        "orbax.checkpoint",
        "grain",
        "matplotlib",
        "PIL",
        "sklearn",
    ]
    code = f"import sys, attnjax; print([name for name in {heavy} if name in sys.modules and name not in before])"
    before = "import sys, flax.linen; before = set(sys.modules)\n"
    done = subprocess.run([sys.executable, "-c", before + code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    never = (
        "import sys, attnjax; print([n for n in ('tensorflow', 'torch', 'tensorflow_datasets') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", never], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_every_public_name_has_a_docstring_with_an_example(package: ModuleType) -> None:
    for name in package.__all__:
        value = getattr(package, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert "Example:" in (value.__doc__ or ""), f"{package.__name__}.{name}"
        elif isinstance(value, tuple):  # names that an argument takes: its docstring says so
            assert any(f"`{name}`" in (getattr(package, other).__doc__ or "") for other in package.__all__), name
        else:
            assert inspect.ismodule(value) or type(value).__module__.startswith("attnjax"), name


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_the_docstrings(name: str) -> None:
    import jax

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_examples_of_the_readme(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (root / "README.md").read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})
