"""Squeeze-and-Excitation (Hu, Shen and Sun, CVPR 2018)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from attnjax.attention._gate_mlp import GateMLP
from attnjax.layers import global_pool


class SqueezeExcite(nn.Module):
    """Scales each channel by a gate computed from the pooled map: the official SE block.

    s = sigmoid(W2 relu(W1 pool(x) + b1) + b2), y = s x, with W1 of shape (c, c // reduction).

    Args:
      reduction: channels per hidden feature; 16 in every released model.
      use_bias: whether W1 and W2 have biases. Official: yes. Some ports leave them out.
      pool: squeeze, `"avg"` (paper), `"max"` (its ablation) or another kind of `attnjax.layers.global_pool`.
      gate: squashing function of the logits; `nn.relu` and `nn.tanh` are the paper's ablations.
      dtype: compute type; None takes the input's. Pooling and gate are float32 or wider.
      param_dtype: type of the parameters.

    Returns:
      (b, h, w, c) of the input's type. The gate (b, c) is sown as `intermediates/gate`.

    Raises:
      ValueError: `reduction` is larger than c, or `pool` is unknown.

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

    reduction: int = 16
    use_bias: bool = True
    pool: str = "avg"
    gate: Callable[[jax.Array], jax.Array] = nn.sigmoid
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        del train
        dtype = x.dtype if self.dtype is None else self.dtype
        pooled = global_pool(x, self.pool)
        logits = GateMLP(self.reduction, self.use_bias, dtype=dtype, param_dtype=self.param_dtype, name="mlp")(pooled)
        gate = self.gate(logits.astype(pooled.dtype))
        self.sow("intermediates", "gate", gate)
        return x * gate[:, None, None, :].astype(x.dtype)
