"""A fixture's weights as our variables, and our results by the reference's names."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from attnjax.convert._mapping import leaf_shapes, read_entries, to_layout
from attnjax.convert._sources import SOURCES, Source
from tests.golden.constructors import Mapped
from tests.golden.reference import Fixture


@dataclasses.dataclass(frozen=True)
class Names:
    """The reference's name of each of our leaves, `collection/module/.../leaf`, and their shapes.

    `whole` are the names that they would have in a net.
    """

    names: dict[str, str]
    whole: dict[str, str]
    shapes: dict[str, tuple[int, ...]]
    source: Source

    def parameters(self) -> int:
        """How many parameters our module has."""
        return sum(math.prod(shape) for path, shape in self.shapes.items() if path.startswith("params/"))

    def statistics(self, updates: dict[str, Any]) -> dict[str, np.ndarray]:
        """Running statistics by the reference's names."""
        flat = flatten_dict(updates, sep="/")
        return {name: np.asarray(flat[path]) for path, name in self.names.items() if path in flat}


def convert(fixture: Fixture, model: nn.Module, mapped: Mapped, shape: tuple[int, ...]) -> tuple[dict[str, Any], Names]:
    """The recipe's weights in our tree: every leaf is filled, and every entry used."""
    shapes, source = leaf_shapes(model, shape), SOURCES[mapped.source]
    place = f"/{mapped.ours}/" if mapped.ours else "/"
    placed = {path: path.replace("/", place, 1) for path in shapes}
    whole = source.names(list(placed.values()), model)
    names = {path: whole[placed[path]] for path in shapes}
    assert all(name.startswith(mapped.theirs) for name in names.values()), f"{mapped.theirs!r} does not begin {names}"
    names = {path: name.removeprefix(mapped.theirs) for path, name in names.items()}
    leaves, wrong = read_entries(fixture.state_dict(), names, shapes, source)
    assert not wrong, wrong.describe()
    variables = unflatten_dict({path: jnp.asarray(leaf) for path, leaf in leaves.items()}, sep="/")
    return variables, Names(names, {path: whole[placed[path]] for path in shapes}, shapes, source)


def gradients_in_torch_layout(grads: Any, names: Names) -> dict[str, np.ndarray]:
    """Gradients by the reference's names."""
    flat = flatten_dict({"params": grads}, sep="/")
    return {
        names.names[path]: to_layout(np.asarray(gradient), path, names.whole[path], names.source)
        for path, gradient in flat.items()
    }
