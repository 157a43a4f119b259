"""SGD in PyTorch's form, AdamW and LAMB, each as one optax transformation."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import optax

Frozen = Callable[[Any], Any]


def sgd(
    learning_rate: float | optax.Schedule,
    momentum: float = 0.9,
    *,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    decay_norm_and_bias: bool = True,
    clip_norm: float | None = None,
    rate_factors: Mapping[str, float] | None = None,
    frozen: Frozen | None = None,
) -> optax.GradientTransformation:
    """SGD with momentum in PyTorch's form: weight decay is added to the gradient.

    g = gradient + weight_decay p, m = momentum m + g, p = p - learning_rate m, or with Nesterov momentum
    p = p - learning_rate (g + momentum m).

    Args:
      learning_rate: a number, or a schedule.
      momentum: decay rate of the momentum.
      nesterov: whether to use Nesterov momentum.
      weight_decay: strength of the L2 regularisation.
      decay_norm_and_bias: whether weight decay also applies to norm scales and biases, as in the papers' code.
      clip_norm: clip gradients to this global norm; None disables clipping.
      rate_factors: factors of the learning rate by submodule of the net, such as `{"backbone": 0.1}`.
      frozen: returns which parameters are not changed, not even by weight decay: a tree of bool like the parameters.
        A detector's is its method `frozen`. None changes all.

    Raises:
      ValueError: the net has no submodule of `rate_factors`; raised by `init`.

    Example:
      >>> import jax.numpy as jnp
      >>> from attnjax.training import sgd
      >>> optimizer, params = sgd(0.1, weight_decay=0.5), {"fc": {"kernel": jnp.array([2.0])}}
      >>> updates, _ = optimizer.update({"fc": {"kernel": jnp.array([1.0])}}, optimizer.init(params), params)
      >>> updates["fc"]["kernel"].tolist()
      [-0.20000000298023224]
    """
    decay = optax.add_decayed_weights(weight_decay, None if decay_norm_and_bias else _decays)
    return _chain([decay, optax.sgd(learning_rate, momentum, nesterov)], clip_norm, rate_factors, frozen)


def adamw(
    learning_rate: float | optax.Schedule,
    b1: float = 0.9,
    b2: float = 0.999,
    *,
    weight_decay: float = 0.0,
    decay_norm_and_bias: bool = True,
    clip_norm: float | None = None,
    rate_factors: Mapping[str, float] | None = None,
    frozen: Frozen | None = None,
) -> optax.GradientTransformation:
    """AdamW: Adam with decoupled weight decay.

    Args:
      learning_rate: a number, or a schedule.
      b1: decay rate of the first moment.
      b2: decay rate of the second moment.
      weight_decay, decay_norm_and_bias, clip_norm, rate_factors, frozen: see `sgd`.

    Raises:
      ValueError: the net has no submodule of `rate_factors`; raised by `init`.

    Example:
      >>> import jax.numpy as jnp
      >>> from attnjax.training import adamw
      >>> optimizer, params = adamw(0.1), {"fc": {"kernel": jnp.array([2.0])}}
      >>> updates, _ = optimizer.update({"fc": {"kernel": jnp.array([3.0])}}, optimizer.init(params), params)
      >>> round(float(updates["fc"]["kernel"][0]), 4)
      -0.1

    References:
      Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019.
    """
    decay = optax.add_decayed_weights(weight_decay, None if decay_norm_and_bias else _decays)
    parts = [optax.scale_by_adam(b1, b2), decay, optax.scale_by_learning_rate(learning_rate)]
    return _chain(parts, clip_norm, rate_factors, frozen)


def lamb(
    learning_rate: float | optax.Schedule,
    b1: float = 0.9,
    b2: float = 0.999,
    *,
    weight_decay: float = 0.0,
    decay_norm_and_bias: bool = True,
    clip_norm: float | None = None,
    rate_factors: Mapping[str, float] | None = None,
    frozen: Frozen | None = None,
) -> optax.GradientTransformation:
    """LAMB: AdamW with each layer's update rescaled to the norm of its parameters.

    The trust ratio applies only to parameters with weight decay: a parameter that starts at 0 would hardly change.

    Args:
      learning_rate: a number, or a schedule.
      b1, b2: see `adamw`.
      weight_decay, decay_norm_and_bias, clip_norm, rate_factors, frozen: see `sgd`.

    Raises:
      ValueError: the net has no submodule of `rate_factors`; raised by `init`.

    Example:
      >>> import jax.numpy as jnp
      >>> from attnjax.training import lamb
      >>> optimizer, params = lamb(0.1), {"fc": {"kernel": jnp.array([2.0])}}
      >>> updates, _ = optimizer.update({"fc": {"kernel": jnp.array([3.0])}}, optimizer.init(params), params)
      >>> round(float(updates["fc"]["kernel"][0]), 4)
      -0.2

    References:
      You et al., "Large Batch Optimization for Deep Learning: Training BERT in 76 minutes", ICLR 2020.
    """
    chosen = None if decay_norm_and_bias else _decays
    decay, trust = optax.add_decayed_weights(weight_decay, chosen), optax.scale_by_trust_ratio()
    parts = [
        optax.scale_by_adam(b1, b2, eps=1e-6),
        decay,
        trust if chosen is None else optax.masked(trust, chosen),
        optax.scale_by_learning_rate(learning_rate),
    ]
    return _chain(parts, clip_norm, rate_factors, frozen)


def _chain(
    parts: Sequence[optax.GradientTransformation],
    clip_norm: float | None,
    rate_factors: Mapping[str, float] | None,
    frozen: Frozen | None,
) -> optax.GradientTransformation:
    clip = optax.identity() if clip_norm is None else optax.clip_by_global_norm(clip_norm)
    scaled = [
        optax.masked(optax.scale(factor), partial(_inside, module)) for module, factor in (rate_factors or {}).items()
    ]
    stops = [] if frozen is None else [optax.masked(optax.set_to_zero(), frozen)]
    return optax.chain(clip, *parts, *scaled, *stops)


def _decays(params: Any) -> Any:
    """True for kernels, False for norm scales and biases."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key not in ("scale", "bias"), params)


def _inside(module: str, params: Any) -> Any:
    """True for the parameters of a submodule of the net."""
    if module not in params:
        near = difflib.get_close_matches(module, params, n=1)
        hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(sorted(params))}"
        raise ValueError(f"rate_factors: {module!r} is no submodule of the net: {hint}")
    return jax.tree_util.tree_map_with_path(lambda path, _: path[0].key == module, params)
