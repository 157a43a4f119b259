"""PyTorch state dicts to our variables and back, strictly."""

from __future__ import annotations

import difflib
import re
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from attnjax.convert._sources import SOURCES, Source

Shapes = Mapping[str, tuple[int, ...]]


def leaf_shapes(model: nn.Module, input_shape: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """Returns the shape of each of a module's leaves by its path, `collection/module/.../leaf`."""
    call = lambda key: model.init(key, jnp.zeros(tuple(input_shape), jnp.float32), train=False)  # noqa: E731
    return {path: leaf.shape for path, leaf in flatten_dict(jax.eval_shape(call, jax.random.key(0)), sep="/").items()}


def to_layout(value: np.ndarray, path: str, name: str, source: Source) -> np.ndarray:
    """One of our leaves in PyTorch's layout."""
    if not path.endswith("/kernel"):
        return value
    if value.ndim == 4:
        return value.transpose(3, 2, 0, 1)
    if value.ndim == 2:
        return value.T if re.search(source.linear, name) and source.linear else value.T[:, :, None, None]
    return value.transpose(2, 1, 0)


def from_layout(value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    """An array of PyTorch's as a leaf of ours of the given shape, or None where it is none."""
    if value.ndim == 4 and len(shape) == 4:
        value = value.transpose(2, 3, 1, 0)
    elif len(shape) == 2 and value.ndim in (2, 4) and value.shape[2:] in ((), (1, 1)):
        value = value.reshape(value.shape[:2]).T
    elif value.ndim == 3 and len(shape) == 3:
        value = value.transpose(2, 1, 0)
    return value if value.shape == tuple(shape) else None


def read_entries(
    entries: Mapping[str, np.ndarray], names: Mapping[str, str], shapes: Shapes, source: Source
) -> tuple[dict[str, np.ndarray], dict[str, list[str]]]:
    """Puts a state dict's entries where they belong.

    Returns:
      Our leaves by path, and what is wrong: `missing` and `unused` names, and `misshapen` as sentences.
    """
    leaves, misshapen = {}, []
    for path, name in names.items():
        if name not in entries:
            continue
        leaf = from_layout(np.asarray(entries[name]), shapes[path])
        if leaf is None:
            needed = to_layout(np.empty(shapes[path], np.int8), path, name, source).shape
            misshapen.append(f"{name} is {entries[name].shape}, the net needs {needed}")
        else:
            leaves[path] = np.ascontiguousarray(leaf, np.float32)
    known = set(names.values())
    unused = [
        name
        for name in entries
        if name not in known and not name.endswith("num_batches_tracked") and not re.search(source.dead, name)
    ]
    missing = [name for name in names.values() if name not in entries]
    return leaves, {"missing": missing, "unused": unused, "misshapen": misshapen}
