"""Strict conversion of PyTorch state dicts to our variables and back."""

from __future__ import annotations

import dataclasses
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from attnjax._choice import check_choice
from attnjax.attention import identity_start
from attnjax.convert._mapping import Mismatch, Shapes, leaf_shapes, read_entries, read_leaves, to_layout
from attnjax.convert._settings import SETTINGS, differences
from attnjax.convert._sources import SOURCES, Source, find_source
from attnjax.models import create_model, init, model_info

Entries = Mapping[str, np.ndarray]

_ATTENTION = re.compile(r"[^/]+/((?:.*?/)??(?:\w+_)?attention\d*)/")


def from_torch(
    model: str | nn.Module,
    state_dict: Mapping[str, Any],
    source: str | None = None,
    *,
    input_shape: Sequence[int] | None = None,
    num_classes: int | None = None,
    allow_missing: Literal["attention"] | None = None,
    gates: Literal["fresh", "identity"] = "fresh",
    key: jax.Array | None = None,
) -> dict[str, Any]:
    """Converts a PyTorch state dict to a net's variables; names and shapes of both must match exactly.

    Entries are matched by name and transposed to channels-last layouts, but never reshaped. The prefix `module.` of
    `DataParallel` is removed; `num_batches_tracked` and entries that the source's code never uses are ignored.

    Args:
      model: a named net (one of `attnjax.list_models()`), or a Linen module.
      state_dict: arrays or CPU tensors by name.
      source: naming scheme of the state dict, one of `list_sources()`; None detects the one that fits best.
        `ran-pytorch-pre`, whose code leaves whole modules unused, is not detected.
      input_shape: shape of an input, (b, h, w, c); None is that of the named net, (1, 224, 224, 3) for a module.
      num_classes: outputs of a named net's classifier; None is its default.
      allow_missing: `"attention"` allows whole attention blocks to be missing, so that the weights of a plain net can
        be loaded into one with attention; a warning has their number. A partly missing block is an error.
      gates: initialisation of missing blocks: `"fresh"`, as by `attnjax.init`, or `"identity"`, so that each block
        passes its input on and the net computes the same as the plain one.
      key: PRNG key for variables that are not in the file; None is `jax.random.key(0)`.

    Returns:
      The collections `params` and `batch_stats`, in float32. If the number of classes differs, the classifier is newly
      initialised, with a warning. Another warning lists settings of the net that differ from the source's code without
      showing in names or shapes, such as the position of strides or the kind of pooling.

    Raises:
      ValueError: names are missing or unknown, have another shape or are not floating (all are listed); two names are
        the same without `module.`; or an argument is unknown.

    Example:
      >>> import attnjax, jax
      >>> from attnjax.convert import from_torch, to_torch
      >>> net = attnjax.create_model("se_resnet20_cifar")
      >>> variables = attnjax.init(net, jax.random.key(0), (1, 32, 32, 3))
      >>> state_dict = to_torch(net, variables, "timm")
      >>> state_dict["layer1.0.se.fc1.weight"].shape
      (1, 16, 1, 1)
      >>> same = from_torch("se_resnet20_cifar", state_dict)
      >>> bool((same["params"]["fc"]["kernel"] == variables["params"]["fc"]["kernel"]).all())
      True
    """
    check_choice("allow_missing", allow_missing, (None, "attention"))
    check_choice("gates", gates, ("fresh", "identity"))
    if gates == "identity" and allow_missing is None:
        raise ValueError("gates='identity' is how missing attention starts: it needs allow_missing='attention'")
    net, shape = build_model(model, num_classes, input_shape)
    shapes = leaf_shapes(net, shape)
    entries = _entries(state_dict)
    automatic = [candidate for candidate in SOURCES.values() if candidate.automatic]
    sources = automatic if source is None else [find_source(source)]
    plans = [_Plan.make(entries, shapes, net, candidate, allow_missing) for candidate in sources]
    plan = min(plans, key=lambda plan: (len(plan.mismatch), plan.dead, len(plan.differences)))
    if not plan.leaves:
        raise ValueError(
            f"no name of these weights is known, such as {next(iter(entries), '')!r}: sources are {', '.join(SOURCES)}"
        )
    if plan.mismatch:
        hint = ""
        if allow_missing is None and not _Plan.make(entries, shapes, net, plan.source, "attention").mismatch:
            hint = ": only attention blocks are missing; pass allow_missing='attention' to initialise them"
        raise ValueError(
            f"these weights, read as source={plan.source.name!r}, do not fit the net{hint}:\n{plan.mismatch.describe()}"
        )
    for note in plan.notes(gates):
        warnings.warn(note, stacklevel=2)
    leaves = plan.leaves
    if len(leaves) < len(shapes) or gates == "identity":
        leaves = _start(net, shape, gates, jax.random.key(0) if key is None else key) | leaves
    return unflatten_dict({path: jnp.asarray(leaves[path]) for path in shapes}, sep="/")


def to_torch(
    model: str | nn.Module,
    variables: Mapping[str, Any],
    source: str,
    *,
    input_shape: Sequence[int] | None = None,
) -> dict[str, np.ndarray]:
    """Converts variables to a PyTorch state dict: the inverse of `from_torch`, bitwise for float32.

    Args:
      model: the net of the variables, by name or as a module.
      variables: its complete collections `params` and `batch_stats`; other collections are ignored.
      source: naming scheme to use, one of `list_sources()`. As in `from_torch`, there is a warning if its code computes
        another function than the net.
      input_shape: as in `from_torch`.

    Returns:
      Arrays by name, with `num_batches_tracked` of 0 beside running statistics. float32 and float64 are kept; bfloat16
      and float16 become float32, which is exact. Entries that the source's code has but never uses (`conv4` in blocks
      of the RAN port) are omitted: load the state dict there with `strict=False`.

    Raises:
      ValueError: leaves are missing, unknown, of another shape or not floating (all are listed); or the source is
        unknown, or has no name for a part of the net.

    Example:
      >>> import attnjax, jax
      >>> from attnjax.convert import to_torch
      >>> net = attnjax.create_model("cbam_resnet20_cifar")
      >>> variables = attnjax.init(net, jax.random.key(0), (1, 32, 32, 3))
      >>> to_torch(net, variables, "attention-module")["layer1.0.cbam.ChannelGate.mlp.1.weight"].shape
      (1, 16)
    """
    chosen = find_source(source)
    net, shape = build_model(model, None, input_shape)
    flat = flatten_dict(
        {name: dict(variables[name]) for name in ("params", "batch_stats") if name in variables}, sep="/"
    )
    leaves, mismatch = read_leaves(flat, leaf_shapes(net, shape))
    if mismatch:
        raise ValueError(f"these variables do not fit the net:\n{mismatch.describe()}")
    names = chosen.names(leaves, net)
    chosen.check(names)
    found = differences(net, SETTINGS[source])
    if found:
        warnings.warn(_other_function(chosen, found), stacklevel=2)
    state_dict: dict[str, np.ndarray] = {}
    for path, name in names.items():
        state_dict[name] = np.ascontiguousarray(to_layout(leaves[path], path, name, chosen))
        if name.endswith(".running_var"):
            state_dict[name.replace("running_var", "num_batches_tracked")] = np.zeros((), np.int64)
    return state_dict


def build_model(
    model: str | nn.Module, num_classes: int | None, input_shape: Sequence[int] | None
) -> tuple[nn.Module, tuple[int, ...]]:
    """Returns the module and its input shape, from a name or a module."""
    if isinstance(model, str):
        height, width = model_info(model).input_size
        options = {} if num_classes is None else {"num_classes": num_classes}
        return create_model(model, **options), tuple(input_shape or (1, height, width, 3))
    if num_classes is not None:
        raise ValueError(f"num_classes={num_classes} is for named nets: give the module its own")
    return model, tuple(input_shape or (1, 224, 224, 3))


@dataclasses.dataclass(frozen=True)
class _Plan:
    """A state dict read with the names of one source."""

    source: Source
    leaves: dict[str, np.ndarray]
    mismatch: Mismatch
    dropped_head: str | None
    fresh: int
    dead: int
    differences: list[str]

    @classmethod
    def make(cls, entries: Entries, shapes: Shapes, net: nn.Module, source: Source, allow_missing: str | None) -> _Plan:
        names = source.names(shapes, net)
        dropped = _foreign_head(entries, names, shapes, source)
        if dropped:
            entries = {name: value for name, value in entries.items() if not re.search(source.head, name)}
            names = {path: name for path, name in names.items() if not re.search(source.head, name)}
        fresh = _absent_blocks(entries, names) if allow_missing else set()
        names = {path: name for path, name in names.items() if _attention_block(path) not in fresh}
        dead = sum(bool(re.search(source.dead, name)) for name in entries.keys() - names.values())
        read = read_entries(entries, names, shapes, source)
        return cls(source, *read, dropped, len(fresh), dead, differences(net, SETTINGS[source.name]))

    def notes(self, gates: str) -> list[str]:
        """Warnings for the caller."""
        notes = [self.dropped_head] if self.dropped_head else []
        if self.fresh:
            how = "newly initialised" if gates == "fresh" else "initialised as the identity"
            notes.append(f"{self.fresh} attention blocks are not in the file and are {how}")
        return notes + ([_other_function(self.source, self.differences)] if self.differences else [])


def _attention_block(path: str) -> str | None:
    """The path of the attention block of a leaf, without its collection; None if it has none."""
    match = _ATTENTION.match(path)
    return match[1] if match else None


def _absent_blocks(entries: Entries, names: Mapping[str, str]) -> set[str]:
    """The attention blocks without any entry."""
    blocks = {block for path in names if (block := _attention_block(path))}
    return blocks - {_attention_block(path) for path, name in names.items() if name in entries}


def _other_function(source: Source, found: list[str]) -> str:
    return f"the net computes another function than source={source.name!r} ({source.about}): {'; '.join(found)}"


def _foreign_head(entries: Entries, names: Mapping[str, str], shapes: Shapes, source: Source) -> str | None:
    """Returns a warning if the classifiers of file and net have different numbers of classes, else None."""
    heads = {name: np.shape(value) for name, value in entries.items() if re.search(source.head, name)}
    classes = source.head_classes(heads)
    if classes is None:
        return None
    note = f"the classifier of {classes} classes in the file is not loaded: "
    kernel = next(
        (path for path, name in names.items() if re.search(source.head, name) and len(shapes[path]) > 1), None
    )
    if kernel is None:
        return note + "the net has none"
    features, wanted = shapes[kernel]
    if names[kernel] in heads and (classes == wanted or heads[names[kernel]][1] != features):
        return None
    return note + f"that of the net, of {wanted}, is newly initialised"


def _start(net: nn.Module, shape: tuple[int, ...], gates: str, key: jax.Array) -> dict[str, Any]:
    """Newly initialised leaves, by path."""
    variables = init(net, key, (1, *shape[1:]))
    if gates == "identity":
        variables = identity_start(net, variables, shape)
    return flatten_dict(variables, sep="/")


def _entries(state_dict: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Arrays by name, without the prefix `module.`."""
    origins: dict[str, str] = {}
    for name in state_dict:
        short = re.sub(r"(^|\.)module\.", r"\1", name)
        if short in origins:
            raise ValueError(
                f"these weights have both {origins[short]!r} and {name!r}: without module. they are the same"
            )
        origins[short] = name
    return {short: _as_array(state_dict[name]) for short, name in origins.items()}


def _as_array(value: Any) -> np.ndarray:
    if hasattr(value, "detach"):  # a tensor; NumPy has no bfloat16
        value = value.detach().cpu()
        value = (value.float() if value.is_floating_point() else value).numpy()
    return np.asarray(value)
