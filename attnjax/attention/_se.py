"""Squeeze-and-Excitation (Hu, Shen and Sun, CVPR 2018) and its single-layer form (Lee and Park, CVPR 2020)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from attnjax.attention._gate_mlp import GateMLP, check_width
from attnjax.attention._gated import Gated, Values, constant_layer, open_logit
from attnjax.layers import BatchNorm, Constant, global_pool, torch_default


class SqueezeExcite(Gated):
    """Scales each channel by a gate computed from the pooled map: the official SE block.

    s = sigmoid(W2 relu(W1 pool(x) + b1) + b2), y = s x, with W1 of shape (c, c // reduction).

    Args:
      reduction: channels per hidden feature; 16 in every released model.
      use_bias: whether W1 and W2 have biases. Official: yes. Some ports leave them out.
      pool: squeeze, `"avg"` (paper), `"max"` (its ablation) or another kind of `attnjax.layers.global_pool`.
      gate_fn: squashing function of the logits; `nn.relu` and `nn.tanh` are the paper's ablations.
      hidden: hidden features, instead of `reduction`.
      divisor: round c / reduction to a multiple of this, at least itself, as timm does (8 there); None rounds down.
      activation: nonlinearity of the hidden features.
      norm: `"batch"` normalises the hidden features (an option of timm), `"none"` does not.
      dtype: compute type; None takes the input's. Pooling and gate are float32 or wider.
      param_dtype: type of parameters and statistics.
      batch_norm: constructor of the batch norm, called with `dtype`, `param_dtype`, `name` and `epsilon`.

    Returns:
      (b, h, w, c) of the input's type. The gate (b, 1, 1, c) is `method="gate"`, and sown as `intermediates/gate`.

    Raises:
      ValueError: `reduction` is larger than c, `hidden` or `divisor` is not positive, or `pool` or `norm` is unknown.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from attnjax.attention import SqueezeExcite
      >>> x = jnp.ones((2, 8, 8, 64))
      >>> variables = SqueezeExcite().init(jax.random.key(0), x, train=False)
      >>> SqueezeExcite().apply(variables, x, train=False).shape
      (2, 8, 8, 64)

    References:
      Hu, Shen and Sun, "Squeeze-and-Excitation Networks", CVPR 2018; official prototxts, hujie-frank/SENet.
    """

    reduction: float = 16
    use_bias: bool = True
    pool: str = "avg"
    gate_fn: Callable[[jax.Array], jax.Array] = nn.sigmoid
    dtype: Any = None
    param_dtype: Any = jnp.float32
    hidden: int | None = None
    divisor: int | None = None
    activation: Callable[[jax.Array], jax.Array] = nn.relu
    norm: Literal["none", "batch"] = "none"
    batch_norm: Callable[..., nn.Module] = BatchNorm

    def __post_init__(self) -> None:
        check_width(self)
        super().__post_init__()

    @nn.compact
    def gate(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Returns the gate, (b, 1, 1, c), float32 or wider."""
        pooled = global_pool(x, self.pool)
        mlp = GateMLP(
            self.reduction,
            self.use_bias,
            self.activation,
            hidden=self.hidden,
            divisor=self.divisor,
            norm=self.norm,
            batch_norm=self.batch_norm,
            dtype=x.dtype if self.dtype is None else self.dtype,
            param_dtype=self.param_dtype,
            name="mlp",
        )
        return self.sow_gate(self.gate_fn(mlp(pooled, train=train).astype(pooled.dtype))[:, None, None, :])

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        return x * self.gate(x, train=train).astype(x.dtype)

    def identity_parameters(self) -> Values:
        return constant_layer("mlp/fc2", open_logit(self.gate_fn), self.use_bias)


class EffectiveSqueezeExcite(Gated):
    """Squeeze-and-Excitation without a bottleneck: one c x c layer and a piecewise linear gate.

    s = hard_sigmoid(W pool(x) + b), y = s x, with hard_sigmoid(t) = relu6(t + 3) / 6.

    Args:
      pool: squeeze, a kind of `attnjax.layers.global_pool`.
      gate_fn: squashing function of the logits.
      dtype: compute type; None takes the input's. Pooling and gate are float32 or wider.
      param_dtype: type of the parameters.

    Returns:
      (b, h, w, c) of the input's type. The gate (b, 1, 1, c) is `method="gate"`, and sown as `intermediates/gate`.

    Raises:
      ValueError: `pool` is unknown.

    Example:
      >>> import attnjax
      >>> from attnjax.attention import EffectiveSqueezeExcite
      >>> attnjax.count_parameters(EffectiveSqueezeExcite(), (1, 8, 8, 64))
      4160

    References:
      Lee and Park, "CenterMask: Real-Time Anchor-Free Instance Segmentation", CVPR 2020, section 3.3.
    """

    pool: str = "avg"
    gate_fn: Callable[[jax.Array], jax.Array] = nn.hard_sigmoid
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def gate(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Returns the gate, (b, 1, 1, c), float32 or wider."""
        del train
        pooled = global_pool(x, self.pool)
        fc = nn.Dense(
            x.shape[-1],
            kernel_init=torch_default,
            bias_init=Constant(0.0),
            dtype=x.dtype if self.dtype is None else self.dtype,
            param_dtype=self.param_dtype,
            name="fc",
        )
        return self.sow_gate(self.gate_fn(fc(pooled).astype(pooled.dtype))[:, None, None, :])

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        return x * self.gate(x, train=train).astype(x.dtype)

    def identity_parameters(self) -> Values:
        return constant_layer("fc", open_logit(self.gate_fn))
