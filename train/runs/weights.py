"""Start weights: a file of attnjax.convert, put into a net that is to be trained."""

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
    """Puts the weights of a file, or of a folder, in the place of a net's fresh variables.

    Every weight of the file must have its place in the net, and every variable of the net must be in the file, but
    for two cases, which are said on standard error: a classifier `fc` of another number of classes stays fresh; and
    where the net is built around a `backbone`, the file may hold a net like that alone, whose classifier is left out.

    Args:
      path: what `attnjax.convert` has written.
      variables: the net's fresh variables.

    Returns:
      Variables with the same structure, shapes and types.

    Raises:
      UserError: the file cannot be read or does not fit the net; everything that does not fit is listed.
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
        notes.append("all but the backbone")
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
        print(f"note: {note} starts fresh, it is not in {path}", file=sys.stderr)
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
    problems += [f"{name} has no place in the net" for name in sorted(given.keys() - wanted.keys())]
    for name, leaf in sorted(wanted.items()):
        if name in given and np.shape(given[name]) != leaf.shape:
            problems.append(f"{name} is {np.shape(given[name])}, not {leaf.shape}")
    return problems
