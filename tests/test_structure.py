"""The plan of the house, drawn from the imports: each room imports what the table allows, and nothing else of ours."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.structure import ROOT, arrows, floors, imported, modules, programs, training_steps

LAYERS = {"attnjax._", "attnjax.layers"}
BLOCKS = LAYERS | {"attnjax.attention"}
NETS = BLOCKS | {"attnjax.models"}
DATA, HOSTS = {"train.config", "train.data"}, {"train.config", "train.hosts"}
TASKS = DATA | HOSTS | {"train.tasks"}
RUNS = TASKS | {"train.runs"}
ALLOWED = {
    "attnjax._": {"attnjax._"},
    "attnjax.layers": LAYERS,
    "attnjax.attention": BLOCKS,
    "attnjax.models": NETS,
    "attnjax.explain": NETS | {"attnjax.explain"},
    "attnjax.convert": NETS | {"attnjax.convert"},
    "attnjax.export": NETS | {"attnjax.export"},
    "attnjax.training": LAYERS | {"attnjax.training"},
    "attnjax.losses": LAYERS | {"attnjax.training", "attnjax.losses"},
    "attnjax.detection": NETS | {"attnjax.training", "attnjax.detection"},
    "train.config": {"train.config"},
    "train.data": DATA,
    "train.hosts": HOSTS,
    "train.tasks": TASKS,
    "train.runs": RUNS,
    "train.ablation": RUNS | {"train.ablation"},
    "train.pods": RUNS | {"train.pods"},
    "train": RUNS | {"train.ablation", "train.pods"},
    "configs": {"train.config", "configs"},
}
"""By room: the rooms that it may import, itself included. Those of train/ may use the public names of attnjax, too."""
MEASURED = ("train.benchmark", "attnjax.layers._convolve")
"""The benchmark compares the forms of a convolution that the library chooses from."""
BACKBONES = ("_blocks", "_mobilenet", "_ran", "_resnet", "_vgg")
"""Files of attnjax/models that take attention as an argument."""

FILES = modules(ROOT, "attnjax", "train", "configs")
GRAPH = arrows(FILES, ROOT)


def room(module: str) -> str:
    """The room of a module: the folder it lies in, `attnjax._` for private files on top, and otherwise the package."""
    package, *inside = module.split(".")
    path = FILES[module]
    if package == "configs" or not inside:
        return package
    if path.parent.name == package:  # on top
        return "attnjax._" if package == "attnjax" and inside[0].startswith("_") else package
    return f"{package}.{inside[0]}"


def test_the_table_has_every_room():
    folders = {room(module) for module in FILES} - {"attnjax"}
    assert folders <= ALLOWED.keys()


def is_public(module: str) -> bool:
    return module.startswith("attnjax") and "._" not in module


@pytest.mark.parametrize("name", ALLOWED)
def test_a_room_imports_what_the_table_allows(name: str):
    wrong = [
        f"{module} -> {target}"
        for module in sorted(GRAPH)
        if room(module) == name and not module.endswith("__main__")
        for target in sorted(GRAPH[module])
        if room(target) not in ALLOWED[name] and not (name.startswith("train") and is_public(target))
        if (module, target) != MEASURED
    ]
    assert wrong == []


def test_nothing_of_the_library_imports_the_application():
    wrong = [
        module
        for module, path in FILES.items()
        if module.startswith("attnjax") and _others(path) & {"train", "configs", "tests"}
    ]
    assert wrong == []


def test_configs_import_settings_and_each_other_alone():
    allowed = {"__future__", "configs", "dataclasses", "train", "typing"}
    for module, path in FILES.items():
        if module.startswith("configs"):
            assert _others(path) <= allowed, module


def _others(path: Path) -> set[str]:
    """The packages that a file imports."""
    return {name.partition(".")[0] for name in imported(path, ROOT, FILES)}


@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbone_imports_no_block(name: str):
    assert not [target for target in GRAPH[f"attnjax.models.{name}"] if room(target) == "attnjax.attention"]


@pytest.mark.parametrize("path", sorted((ROOT / "train").glob("*.py")), ids=lambda path: path.stem)
def test_the_files_on_top_of_the_application_are_programs(path: Path):
    if path.stem == "__init__":
        return
    body = ast.parse(path.read_text()).body
    assert "main" in {node.name for node in body if isinstance(node, ast.FunctionDef)}
    assert ast.unparse(body[-1]).startswith("if __name__ == '__main__':")


def test_there_are_no_import_cycles():
    remaining = dict(GRAPH)
    while leaves := [module for module, targets in remaining.items() if not targets & remaining.keys()]:
        for module in leaves:
            del remaining[module]
    assert sorted(remaining) == []
    assert floors({"a": {"b"}, "b": {"c"}, "c": set(), "d": {"c"}}) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("source", "steps"),
    [
        ("def step(p): g = grad(f)(p); return optimizer.update(g, s), h(lambda x: x)", ["step"]),
        ("def make():\n def step(p): return apply_updates(p, jax.value_and_grad(f)(p))\n return step", ["step"]),
        ("def step(p): return tree.map(lambda p, g: p - g, p, _slope(p))\ndef _slope(p): return grad(f)(p)", ["step"]),
        ("class Step:\n def __call__(s): return o.update(self._g(), 1)\n def _g(s): return grad(f)()", ["__call__"]),
        ("def saliency(x): return jax.grad(f)(x)\ndef log(x): names.update(x)", []),
    ],
)
def test_training_steps_are_found(source: str, steps: list[str]):
    assert training_steps(source) == steps


def test_there_is_one_training_step_in_the_library():
    found = {name: training_steps(text) for name, text in programs(ROOT)}
    assert [name for name, steps in found.items() for _ in steps] == ["attnjax/training/_step.py"]
