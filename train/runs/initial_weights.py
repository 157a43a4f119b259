"""Initial weights: loads a file of attnjax.convert into a net before training."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from attnjax.convert import load_variables
from train.config.errors import UserError
from train.hosts.processes import is_first


def start_from(path: str, variables: Mapping[str, Any]) -> dict[str, Any]:
    """Replaces freshly initialised variables by the weights of a file or folder.

    File and net must have the same variables, with two exceptions, each printed as a note on standard error: a
    classifier `fc` with another number of classes keeps its initialisation; and if the net is built around a
    `backbone`, the file may hold the backbone as a net of its own, whose classifier is ignored.

    Args:
      path: a file or folder written by `attnjax.convert`.
      variables: the net's freshly initialised variables.

    Returns:
      Variables with the same structure, shapes and dtypes.

    Raises:
      UserError: the file cannot be read or does not fit the net; the message lists every mismatch.
    """
    try:
        given = flatten_dict(load_variables(path), sep="/")
    except (ValueError, ImportError) as error:
        raise UserError(f"model.weights: {error}") from error
    fresh = flatten_dict(dict(variables), sep="/")
    wanted, notes = dict(fresh), []
    if _in_backbone(fresh) and not _in_backbone(given):
        wanted = {name: leaf for name, leaf in fresh.items() if name in _in_backbone(fresh)}
        given = {_to_backbone(name): leaf for name, leaf in given.items() if _module(name) != "fc"}
        notes.append("everything but the backbone")
    head = [name for name in wanted if _module(name) == "fc"]
    if all(name in given for name in head) and any(
        np.shape(given[name])[-1:] != wanted[name].shape[-1:] for name in head
    ):
        notes.append(f"the classifier of {wanted[head[0]].shape[-1]} classes")
        for name in head:
            del given[name], wanted[name]
    if problems := _problems(given, wanted):
        raise UserError(f"model.weights={path!r} does not fit the net: {'; '.join(problems)}")
    for note in notes if is_first() else ():
        print(f"note: {note} is not in {path} and keeps its initial values", file=sys.stderr)
    return unflatten_dict(
        fresh | {name: jnp.asarray(given[name], leaf.dtype) for name, leaf in wanted.items()}, sep="/"
    )


def _module(name: str) -> str:
    """The outermost submodule of `collection/module/.../leaf`."""
    return name.partition("/")[2].partition("/")[0]


def _in_backbone(flat: Mapping[str, Any]) -> list[str]:
    return [name for name in flat if _module(name) == "backbone"]


def _to_backbone(name: str) -> str:
    collection, _, rest = name.partition("/")
    return f"{collection}/backbone/{rest}"


def _problems(given: Mapping[str, Any], wanted: Mapping[str, jax.Array]) -> list[str]:
    problems = []
    for name in sorted(wanted.keys() - given.keys()):
        near = difflib.get_close_matches(name, given.keys() - wanted.keys(), n=1)
        problems.append(f"{name} is missing" + (f" (nearest: {near[0]})" if near else ""))
    problems += [f"{name} is not in the net" for name in sorted(given.keys() - wanted.keys())]
    for name, leaf in sorted(wanted.items()):
        if name in given and np.shape(given[name]) != leaf.shape:
            problems.append(f"{name} is {np.shape(given[name])}, not {leaf.shape}")
    return problems
