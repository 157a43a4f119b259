"""PyTorch state dicts to our variables and back, strictly."""

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

from attnjax.attention import identity_start
from attnjax.convert._mapping import Mismatch, Shapes, leaf_shapes, read_entries, to_layout
from attnjax.convert._sources import SOURCES, Source, find_source
from attnjax.models import create_model, init, model_info

Entries = Mapping[str, np.ndarray]

_ATTENTION = re.compile(r"/(\w+_)?attention\d*/")


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
    """Turns a PyTorch state dict into a net's variables; every entry of both must find its place.

    Entries are found by their names, turned to channels-last layouts and never reshaped otherwise. `module.` of
    `DataParallel` is left off, `num_batches_tracked` and what the source's code never uses are passed over.

    Args:
      model: a named net (one of `attnjax.list_models()`), or a Linen module.
      state_dict: arrays or CPU tensors by name.
      source: whose names these are, one of `list_sources()`; None takes the one that fits best.
      input_shape: shape of an input, (b, h, w, c); None is that of the named net, (1, 224, 224, 3) for a module.
      num_classes: outputs of a named net's classifier; None is its default.
      allow_missing: `"attention"` lets the parameters of attention blocks be missing, so that a plain net's weights
        can be put into one with attention.
      gates: how blocks that are missing start: `"fresh"`, as `attnjax.init` makes them, or `"identity"`, so that each
        hands its input through and the net computes what the plain one did.
      key: PRNG key for what is not in the file; None is `jax.random.key(0)`.

    Returns:
      The collections `params` and `batch_stats`, in float32. A classifier of another number of classes than the
      net's is left out with a warning, and the net's starts fresh.

    Raises:
      ValueError: names are missing, have no place or another shape, all listed; or an argument is unknown.

    Example:
      >>> import attnjax, jax
      >>> from attnjax.convert import from_torch, to_torch
      >>> net = attnjax.create_model("se_resnet20_cifar")
      >>> variables = attnjax.init(net, jax.random.key(0), (1, 32, 32, 3))
      >>> state_dict = to_torch(net, variables, "cadene")
      >>> state_dict["layer1.0.se_module.fc1.weight"].shape
      (1, 16, 1, 1)
      >>> same = from_torch("se_resnet20_cifar", state_dict)
      >>> bool((same["params"]["fc"]["kernel"] == variables["params"]["fc"]["kernel"]).all())
      True
    """
    _check("allow_missing", allow_missing, (None, "attention"))
    _check("gates", gates, ("fresh", "identity"))
    net, shape = build_model(model, num_classes, input_shape)
    shapes = leaf_shapes(net, shape)
    entries = {re.sub(r"(^|\.)module\.", r"\1", name): _as_array(value) for name, value in state_dict.items()}
    sources = list(SOURCES.values()) if source is None else [find_source(source)]
    plans = [_Plan.make(entries, shapes, net, candidate, allow_missing) for candidate in sources]
    plan = min(plans, key=lambda plan: len(plan.mismatch))
    if not plan.leaves:
        raise ValueError(
            f"no name of these weights is known, such as {next(iter(entries), '')!r}: sources are {', '.join(SOURCES)}"
        )
    if plan.mismatch:
        raise ValueError(
            f"these weights, read as source={plan.source.name!r}, do not fit the net:\n{plan.mismatch.describe()}"
        )
    if plan.dropped_head:
        warnings.warn(plan.dropped_head, stacklevel=2)
    leaves = plan.leaves
    if len(leaves) < len(shapes):
        leaves = _start(net, shape, gates, jax.random.key(0) if key is None else key) | leaves
    return unflatten_dict({path: jnp.asarray(leaves[path]) for path in shapes}, sep="/")


def to_torch(model: str | nn.Module, variables: Mapping[str, Any], source: str) -> dict[str, np.ndarray]:
    """Turns variables into a PyTorch state dict: the inverse of `from_torch`, bit by bit.

    Args:
      model: the net that the variables are of, by name or as a module.
      variables: its collections `params` and `batch_stats`; others are left out.
      source: whose names to use, one of `list_sources()`.

    Returns:
      Arrays by name, with `num_batches_tracked` of 0 beside running statistics. What the source's code makes but never
      uses (`conv4` of the RAN port's blocks) is not in it: load it there with `strict=False`.

    Raises:
      ValueError: the source is unknown, or has no name for a part of the net.

    Example:
      >>> import attnjax, jax
      >>> from attnjax.convert import to_torch
      >>> net = attnjax.create_model("cbam_resnet20_cifar")
      >>> variables = attnjax.init(net, jax.random.key(0), (1, 32, 32, 3))
      >>> to_torch(net, variables, "attention-module")["layer1.0.cbam.ChannelGate.mlp.1.weight"].shape
      (1, 16)
    """
    net, chosen = create_model(model) if isinstance(model, str) else model, find_source(source)
    flat = flatten_dict(
        {name: dict(variables[name]) for name in ("params", "batch_stats") if name in variables}, sep="/"
    )
    names = chosen.names(flat, net)
    chosen.check(names)
    state_dict: dict[str, np.ndarray] = {}
    for path, name in names.items():
        state_dict[name] = np.ascontiguousarray(to_layout(np.asarray(flat[path]), path, name, chosen))
        if name.endswith(".running_var"):
            state_dict[name.replace("running_var", "num_batches_tracked")] = np.zeros((), np.int64)
    return state_dict


def build_model(
    model: str | nn.Module, num_classes: int | None, input_shape: Sequence[int] | None
) -> tuple[nn.Module, tuple[int, ...]]:
    """The module and the shape of its input, of a name or a module."""
    if isinstance(model, str):
        height, width = model_info(model).input_size
        options = {} if num_classes is None else {"num_classes": num_classes}
        return create_model(model, **options), tuple(input_shape or (1, height, width, 3))
    if num_classes is not None:
        raise ValueError(f"num_classes={num_classes} is for named nets: give the module its own")
    return model, tuple(input_shape or (1, 224, 224, 3))


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What a source's names make of a state dict."""

    source: Source
    leaves: dict[str, np.ndarray]
    mismatch: Mismatch
    dropped_head: str | None

    @classmethod
    def make(cls, entries: Entries, shapes: Shapes, net: nn.Module, source: Source, allow_missing: str | None) -> _Plan:
        names = source.names(shapes, net)
        dropped = _foreign_head(entries, names, shapes, source)
        if dropped:
            entries = {name: value for name, value in entries.items() if not re.search(source.head, name)}
            names = {path: name for path, name in names.items() if not re.search(source.head, name)}
        if allow_missing:
            names = {path: name for path, name in names.items() if name in entries or not _ATTENTION.search(path)}
        return cls(source, *read_entries(entries, names, shapes, source), dropped)


def _foreign_head(entries: Entries, names: Mapping[str, str], shapes: Shapes, source: Source) -> str | None:
    """Says so if the file's classifier has another number of classes than the net's."""
    heads = {name: np.shape(value) for name, value in entries.items() if re.search(source.head, name)}
    classes = source.head_classes(heads)
    if classes is None:
        return None
    start = f"the file's classifier of {classes} classes is left out: "
    kernel = next(
        (path for path, name in names.items() if re.search(source.head, name) and len(shapes[path]) > 1), None
    )
    if kernel is None:
        return start + "the net has none"
    features, wanted = shapes[kernel]
    if names[kernel] in heads and (classes == wanted or heads[names[kernel]][1] != features):
        return None
    return start + f"the net's, of {wanted}, starts fresh"


def _start(net: nn.Module, shape: tuple[int, ...], gates: str, key: jax.Array) -> dict[str, Any]:
    """Fresh leaves by path."""
    variables = init(net, key, (1, *shape[1:]))
    if gates == "identity":
        variables = identity_start(net, variables, shape)
    return flatten_dict(variables, sep="/")


def _as_array(value: Any) -> np.ndarray:
    if hasattr(value, "detach"):  # a tensor; NumPy has no bfloat16
        value = value.detach().cpu()
        value = (value.float() if value.is_floating_point() else value).numpy()
    return np.asarray(value)


def _check(argument: str, value: Any, allowed: tuple[Any, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{argument}={value!r} is not one of {allowed}")
