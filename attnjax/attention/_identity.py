"""A start for fine-tuning in which attention blocks hand their input through."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from attnjax.attention._bam import BAM
from attnjax.attention._cbam import CBAM, ChannelGate, SpatialGate
from attnjax.attention._coordinate import CoordinateAttention
from attnjax.attention._eca import EfficientChannelAttention
from attnjax.attention._gather_excite import GatherExcite
from attnjax.attention._global_context import GlobalContext
from attnjax.attention._se import EffectiveSqueezeExcite, SqueezeExcite
from attnjax.attention._triplet import TripletAttention

Values = dict[str, float]
"""What parameters below a block are filled with, by their path."""

_OPEN = {nn.sigmoid: 7.0, nn.hard_sigmoid: 2.995, nn.tanh: 4.0, nn.relu: 1.0}
"""Logit at which a squashing function is within 0.001 of 1 and still has a slope."""


def identity_start(model: nn.Module, variables: Mapping[str, Any], input_shape: Sequence[int]) -> dict[str, Any]:
    """Opens the gates of all attention blocks, so that each returns its input to within 1 %.

    A freshly initialised gate is near 1/2: put into a trained net, it halves every branch. Here the last layer before
    a gate gets a kernel (or a norm's scale) of 0 and a bias that opens it. Everything else is left as it is. The
    gradient is small but not 0 there, so that training closes gates where that pays.

    Args:
      model: a net with attention blocks, or one block, called with `(x, train=False)`.
      variables: its variables. They are not changed.
      input_shape: shape of x, with any batch size.

    Returns:
      The variables with the blocks' last layers filled.

    Raises:
      ValueError: a block has no bias that could open its gate, its squashing function is none of sigmoid, hard_sigmoid,
        tanh and relu, or it is no rescaling of its input (selective kernels, PSA, RAN's modules, GGAM).

    Example:
      >>> import jax, jax.numpy as jnp, attnjax
      >>> from attnjax.attention import CBAM, identity_start
      >>> x = jax.random.normal(jax.random.key(0), (2, 8, 8, 32))
      >>> variables = identity_start(CBAM(), attnjax.init(CBAM(), jax.random.key(1), x.shape), x.shape)
      >>> bool(jnp.abs(CBAM().apply(variables, x, train=False) / x - 1).max() < 0.01)
      True
    """
    flat = flatten_dict(dict(variables))
    for path, block in _blocks(model, input_shape).items():
        name = "/".join(path) or "the model"
        rule = _RULES.get(type(block))
        if rule is None:
            raise ValueError(f"identity start: {name} ({type(block).__name__}) is no rescaling of its input")
        try:
            values = rule(block)
        except ValueError as error:
            raise ValueError(f"identity start: {name} ({type(block).__name__}) {error}") from None
        for leaf, value in values.items():
            key = ("params", *path, *leaf.split("/"))
            flat[key] = jnp.full_like(flat[key], value)
    return unflatten_dict(flat)


def _blocks(model: nn.Module, input_shape: Sequence[int]) -> dict[tuple[str, ...], nn.Module]:
    """The attention blocks by their paths, without the blocks that they are made of."""
    found: dict[tuple[str, ...], nn.Module] = {}

    def record(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        module = context.module
        inside = any(module.path[:length] in found for length in range(len(module.path)))
        if type(module).__module__.startswith(_PACKAGE) and not inside:
            found[module.path] = module.clone(parent=None)
        return call(*args, **kwargs)

    def trace(key: jax.Array) -> Any:
        with nn.intercept_methods(record):
            return model.init(key, jnp.zeros(tuple(input_shape), jnp.float32), train=False)

    jax.eval_shape(trace, jax.random.key(0))
    return found


_PACKAGE = __name__.rpartition(".")[0] + "."


def _opening(gate: Callable[..., Any]) -> float:
    if gate not in _OPEN:
        raise ValueError("has a gate that is not one of sigmoid, hard_sigmoid, tanh, relu")
    return _OPEN[gate]


def _layer(name: str, bias: float, has_bias: bool = True) -> Values:
    if not has_bias:
        raise ValueError("has no bias that could open its gate: use_bias=True")
    return {f"{name}/kernel": 0.0, f"{name}/bias": bias}


def _norm(name: str, bias: float) -> Values:
    return {f"{name}/scale": 0.0, f"{name}/bias": bias}


def _below(name: str, values: Values) -> Values:
    return {f"{name}/{path}": value for path, value in values.items()}


def _channel(block: CBAM | ChannelGate, gate: Callable[..., Any]) -> Values:
    return _layer("mlp/fc2", _opening(gate) / len(block.pools), block.use_bias)


def _spatial(norm: Any, gate: Callable[..., Any]) -> Values:
    if norm == "none":
        raise ValueError("has no batch norm that could open its spatial gate: norm='none'")
    return _norm("bn", _opening(gate))


def _cbam(block: CBAM) -> Values:
    values = _below("channel_gate", _channel(block, block.gate_fn))
    return values | _below("spatial_gate", _spatial(block.spatial_norm, block.gate_fn)) if block.spatial else values


def _bam(block: BAM) -> Values:
    logits = (3.0, -3.0) if block.fuse == "product" else (-3.5, -3.5)
    if block.norm_placement == "end":
        channel, spatial = _norm("bn", logits[0]), _norm("bn", logits[1])
    else:
        channel, spatial = _layer(f"fc{block.num_layers + 1}", logits[0]), _layer("final_conv", logits[1])
    return _below("channel_branch", channel) | _below("spatial_branch", spatial)


def _eca(block: EfficientChannelAttention) -> Values:
    name = "conv" if block.hidden is None else "conv2"
    return _layer(name, _opening(block.gate_fn), block.use_bias or block.hidden is not None)


def _gather_excite(block: GatherExcite) -> Values:
    if block.use_mlp:
        return _layer("mlp/fc2", _opening(block.gate_fn))
    if not block.parametrised:
        raise ValueError("has no parameter that could open its gate: parametrised=False, use_mlp=False")
    return _norm(f"gather_bn{max(1, block.extent.bit_length() - 1)}", _opening(block.gate_fn))


def _global_context(block: GlobalContext) -> Values:
    scale = _layer("scale_mlp/fc2", _opening(block.gate_fn)) if block.scale else {}
    return scale | (_layer("add_mlp/fc2", 0.0) if block.add else {})


def _coordinate(block: CoordinateAttention) -> Values:
    if block.skip:
        raise ValueError("adds its input to a gated one: skip=True")
    bias = _opening(block.gate_fn)
    return _layer("conv_h", bias, block.use_bias) | _layer("conv_w", bias, block.use_bias)


def _triplet(block: TripletAttention) -> Values:
    branches = ("cw", "hc", "hw") if block.spatial else ("cw", "hc")
    return {path: value for name in branches for path, value in _below(name, _norm("bn", _OPEN[nn.sigmoid])).items()}


_RULES: dict[type[nn.Module], Callable[[Any], Values]] = {
    SqueezeExcite: lambda block: _layer("mlp/fc2", _opening(block.gate_fn), block.use_bias),
    EffectiveSqueezeExcite: lambda block: _layer("fc", _opening(block.gate_fn)),
    ChannelGate: lambda block: _channel(block, block.gate_fn),
    SpatialGate: lambda block: _spatial(block.norm, block.gate_fn),
    CBAM: _cbam,
    BAM: _bam,
    EfficientChannelAttention: _eca,
    GatherExcite: _gather_excite,
    GlobalContext: _global_context,
    CoordinateAttention: _coordinate,
    TripletAttention: _triplet,
}
