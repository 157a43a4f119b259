"""The package as a whole: what it imports, what it promises in print, and its examples."""

from __future__ import annotations

import doctest
import importlib
import importlib.metadata
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import attnjax

PACKAGES = [
    attnjax,
    attnjax.attention,
    attnjax.convert,
    attnjax.detection,
    attnjax.explain,
    attnjax.layers,
    attnjax.losses,
    attnjax.models,
    attnjax.training,
]
MODULES = [module.name for module in pkgutil.walk_packages(attnjax.__path__, "attnjax.")]


def test_import_pulls_in_nothing_heavy() -> None:
    heavy = [
        "tensorflow",
        "torch",
        "tensorflow_datasets",
        "orbax.checkpoint",
        "grain",
        "tyro",
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
        elif isinstance(value, tuple | str | int | dict):  # what an argument takes: its docstring says so
            assert any(f"`{name}`" in (getattr(package, other).__doc__ or "") for other in package.__all__), name
        else:
            assert inspect.ismodule(value) or type(value).__module__.startswith("attnjax"), name


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_the_docstrings(name: str) -> None:
    import jax

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        assert doctest.testmod(importlib.import_module(name)).failed == 0


ALONE = """
import importlib.util, sys
sys.path.append(sys.argv[1])
import jax, jax.numpy as jnp, attnjax
from attnjax.losses import CrossEntropy
from attnjax.training import TrainState, make_train_step, sgd
assert attnjax.__file__.startswith(sys.argv[1])
model, optimizer, key = attnjax.create_model("cbam_resnet20_cifar", stage_sizes=(1, 1, 1)), sgd(0.1), jax.random.key(0)
step = make_train_step(model, optimizer, CrossEntropy())
state = TrainState.create(attnjax.init(model, key, (1, 8, 8, 3)), optimizer)
batch = {"image": jnp.zeros((4, 8, 8, 3)), "label": jnp.arange(4)}
state, sums = jax.jit(step)(state, step.init(state, batch, key), batch, key)
assert sums["count"] == 4
others = ("tyro", "grain", "PIL", "sklearn", "matplotlib", "tensorflow_datasets", "train")
assert not [name for name in others if importlib.util.find_spec(name)]
"""


@pytest.mark.slow
def test_the_wheel_works_with_its_declared_dependencies_alone(root: Path, tmp_path: Path) -> None:
    pytest.importorskip("hatchling", reason="hatchling builds the wheel: the extra test")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path), str(root)]
    subprocess.run([*pip, *build], check=True)
    (wheel,) = tmp_path.glob("attnjax-*.whl")
    site = tmp_path / "site"
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--target", str(site), str(wheel)], check=True)
    link_dependencies(site)
    command = [sys.executable, "-I", "-S", "-c", ALONE, str(site)]
    subprocess.run(command, check=True, cwd=tmp_path)


def link_dependencies(site: Path) -> None:
    """Links what pip would install beside attnjax: what the wheel requires without extras, and so on from there."""
    (own,) = importlib.metadata.distributions(name="attnjax", path=[str(site)])
    waiting, seen = [own], {"attnjax"}
    while waiting:
        for line in waiting.pop().requires or ():
            requirement = Requirement(line)
            name = canonicalize_name(requirement.name)
            if name in seen or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
                continue
            seen.add(name)
            distribution = importlib.metadata.distribution(name)
            waiting.append(distribution)
            for top in {file.parts[0] for file in distribution.files or ()} - {"..", "bin", "__pycache__"}:
                if not (site / top).exists():
                    (site / top).symlink_to(distribution.locate_file(top))
