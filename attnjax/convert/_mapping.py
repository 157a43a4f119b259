"""Maps entries of a PyTorch state dict to leaves of our variables, in our layouts, and collects mismatches."""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from attnjax.convert._sources import Source

Shapes = Mapping[str, tuple[int, ...]]

_UPSAMPLE = "mask_head/upsample/kernel"
"""A transposed convolution: (in, out, h, w) in PyTorch, (h, w, in, out) here."""
_FLATTENED, _REGION = "box_head/fc1/kernel", (7, 7)
"""Takes a pooled region that is flattened, channels first in PyTorch and last here."""


def leaf_shapes(model: nn.Module, input_shape: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """Returns the shape of each of a module's leaves by its path, `collection/module/.../leaf`."""
    return leaf_shapes_of(lambda key: model.init(key, jnp.zeros(tuple(input_shape), jnp.float32), train=False))


def leaf_shapes_of(init: Callable[[jax.Array], Any]) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of the variables that a function of a key makes, by path."""
    variables = jax.eval_shape(init, jax.random.key(0))
    return {path: leaf.shape for path, leaf in flatten_dict(variables, sep="/").items()}


def to_layout(value: np.ndarray, path: str, name: str, source: Source) -> np.ndarray:
    """Converts one of our leaves to PyTorch's layout."""
    if not path.endswith("/kernel"):
        return value
    if path.endswith(_UPSAMPLE):
        return value.transpose(2, 3, 0, 1)
    if path.endswith(_FLATTENED):
        channels = len(value) // math.prod(_REGION)
        return value.reshape(*_REGION, channels, -1).transpose(3, 2, 0, 1).reshape(value.shape[1], -1)
    if value.ndim == 4:
        return value.transpose(3, 2, 0, 1)
    if value.ndim == 2:
        return value.T if re.search(source.linear, name) and source.linear else value.T[:, :, None, None]
    return value.transpose(2, 1, 0)


def from_layout(value: np.ndarray, path: str, shape: tuple[int, ...]) -> np.ndarray | None:
    """Converts a PyTorch array to a leaf of ours of the given shape; returns None if it does not fit."""
    if path.endswith(_UPSAMPLE):
        value = value.transpose(2, 3, 0, 1) if value.ndim == 4 else value
    elif path.endswith(_FLATTENED) and value.shape == shape[::-1]:
        channels = value.shape[1] // math.prod(_REGION)
        value = value.reshape(len(value), channels, *_REGION).transpose(2, 3, 1, 0).reshape(shape)
    elif value.ndim == 4 and len(shape) == 4:
        value = value.transpose(2, 3, 1, 0)
    elif len(shape) == 2 and value.ndim in (2, 4) and value.shape[2:] in ((), (1, 1)):
        value = value.reshape(value.shape[:2]).T
    elif value.ndim == 3 and len(shape) == 3:
        value = value.transpose(2, 1, 0)
    return value if value.shape == tuple(shape) else None


@dataclasses.dataclass(frozen=True)
class Mismatch:
    """Differences between a state dict and a net.

    Attributes:
      missing: names that the state dict lacks.
      unused: names that the net does not have.
      misshapen: shapes in the file and in the net, where they differ, by name.
      mistyped: dtypes that are not floating, by name.
    """

    missing: list[str]
    unused: list[str]
    misshapen: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    mistyped: dict[str, str]

    def __bool__(self) -> bool:
        return bool(len(self))

    def __len__(self) -> int:
        return len(self.missing) + len(self.unused) + len(self.misshapen) + len(self.mistyped)

    def describe(self) -> str:
        """Lists all differences, wrapped; if few names are missing, each with the nearest unused one."""
        shapes = [f"{name} is {has}, not {needs}" for name, (has, needs) in self.misshapen.items()]
        parts = {
            "missing": [self._with_nearest(name) for name in self.missing],
            "not in the net": self.unused,
            "with another shape in the net": shapes,
            "not floating": [f"{name} is {dtype}" for name, dtype in self.mistyped.items()],
        }
        lines = [f"{len(names)} {what}: {'; '.join(names)}" for what, names in parts.items() if names]
        return "\n".join(textwrap.fill(line, 120, subsequent_indent="    ", break_on_hyphens=False) for line in lines)

    def _with_nearest(self, name: str) -> str:
        near = difflib.get_close_matches(name, self.unused, n=1) if len(self.missing) <= 20 else []
        return f"{name} (nearest: {near[0]})" if near else name


def read_entries(
    entries: Mapping[str, np.ndarray], names: Mapping[str, str], shapes: Shapes, source: Source
) -> tuple[dict[str, np.ndarray], Mismatch]:
    """Converts the entries of a state dict; returns our leaves by path, and the mismatches."""
    leaves, misshapen, mistyped = {}, {}, {}
    for path, name in names.items():
        if name not in entries:
            continue
        entry = np.asarray(entries[name])
        leaf = from_layout(entry, path, shapes[path])
        if not is_floating(entry):
            mistyped[name] = str(entry.dtype)
        elif leaf is None:
            needed = to_layout(np.empty(shapes[path], np.int8), path, name, source).shape
            misshapen[name] = (entry.shape, needed)
        else:
            leaves[path] = np.ascontiguousarray(leaf, np.float32)
    known = set(names.values())
    unused = [
        name
        for name in entries
        if name not in known and not name.endswith("num_batches_tracked") and not re.search(source.dead, name)
    ]
    missing = sorted(name for name in names.values() if name not in entries)
    return leaves, Mismatch(missing, unused, misshapen, mistyped)


def read_leaves(flat: Mapping[str, Any], shapes: Shapes) -> tuple[dict[str, np.ndarray], Mismatch]:
    """Checks our leaves, by path, against the shapes of a net; returns them in float32 or wider, and the mismatches."""
    leaves = {path: np.asarray(leaf) for path, leaf in flat.items()}
    misshapen = {path: (leaf.shape, tuple(shapes[path])) for path, leaf in leaves.items() if path in shapes}
    mismatch = Mismatch(
        sorted(path for path in shapes if path not in leaves),
        [path for path in leaves if path not in shapes],
        {path: (has, needs) for path, (has, needs) in misshapen.items() if has != needs},
        {path: str(leaf.dtype) for path, leaf in leaves.items() if not is_floating(leaf)},
    )
    return {path: widen(leaf) for path, leaf in leaves.items()}, mismatch


def is_floating(value: np.ndarray) -> bool:
    """Whether the dtype is real floating, bfloat16 included."""
    return bool(jnp.issubdtype(value.dtype, jnp.floating))


def widen(value: np.ndarray) -> np.ndarray:
    """Casts floating dtypes narrower than float32 to float32, which is exact; leaves all others unchanged."""
    return value.astype(np.float32) if is_floating(value) and value.dtype.itemsize < 4 else value
