"""Channel-spatial attention of GGAM, the Grad-CAM guided attention module (Xu, Chang, Xie and Ma, 2021)."""

from __future__ import annotations

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from attnjax._arguments import check_effect
from attnjax._choice import check_choice
from attnjax.attention._gate_mlp import GateMLP
from attnjax.attention._gated import Gated
from attnjax.layers import global_pool, torch_default


class ChannelSpatialAttention(Gated):
    """Scales each position by a gate made of a channel-weighted sum of the map.

    S = softmax(W2 relu(W1 mean(x) + b1) + b2) over the channels, m = sum over c of S_c x_c, T = norm(m), y = T x.
    GGAM's loss compares S with the Grad-CAM weights of the channels.

    Args:
      reduction: channels per hidden feature; 16 in the released code.
      spatial_norm: T of m: `"sigmoid"`, what the released training script has; `"sum"`, m divided by its sum over h
        and w (paper), for maps x that are not negative; `"softmax"`, the softmax over h and w of another official
        script, `cars_spatial.py`.
      epsilon: added to the sum that `"sum"` divides by, which is 0 for a map of zeros.
      dtype: compute type of the MLP; None takes the input's. Pooling, softmax and gate are float32 or wider.
      param_dtype: type of the parameters.

    Returns:
      (b, h, w, c) of the input's type. The gate T (b, h, w, 1) is `method="gate"`, and sown as `intermediates/gate`.
      S (b, c) is `method="channel_weights"`, and sown as `intermediates/channel_weights`.

    Raises:
      ValueError: `reduction` is larger than c, or `spatial_norm` is unknown.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from attnjax.attention import ChannelSpatialAttention
      >>> x = jnp.ones((2, 8, 6, 64))
      >>> variables = ChannelSpatialAttention().init(jax.random.key(0), x, train=False)
      >>> weights = ChannelSpatialAttention().apply(variables, x, train=False, method="channel_weights")
      >>> weights.shape, weights.sum(-1).round(3).tolist()
      ((2, 64), [1.0, 1.0])

    References:
      Xu et al., "Grad-CAM Guided Channel-spatial Attention Module for Fine-grained Visual Classification", 2021;
      official code, PRIS-CV/CAM-Guided-Attention: `Spatial_SEModule` of `cars_sp_CAM.py`.

    Notes:
      Its channel-only rival, `SEModule` of the same scripts, is `SqueezeExcite`. The biases start at 0, those of the
      released code at PyTorch's uniform noise.
    """

    reduction: int = 16
    spatial_norm: Literal["sigmoid", "sum", "softmax"] = "sigmoid"
    epsilon: float = 1e-8
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        if self.spatial_norm != "sum":
            check_effect(self, f"spatial_norm={self.spatial_norm!r}", "epsilon")
        super().__post_init__()

    @nn.compact
    def channel_weights(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Returns S, (b, c), float32 or wider; it sums to 1 over the channels."""
        del train
        dtype = x.dtype if self.dtype is None else self.dtype
        mlp = GateMLP(self.reduction, kernel_init=torch_default, dtype=dtype, param_dtype=self.param_dtype, name="mlp")
        pooled = global_pool(x)
        weights = jax.nn.softmax(mlp(pooled).astype(pooled.dtype), axis=-1)
        self.sow("intermediates", "channel_weights", weights)
        return weights

    def gate(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Returns T, (b, h, w, 1), float32 or wider."""
        check_choice("spatial_norm", self.spatial_norm, ("sigmoid", "sum", "softmax"))
        weights = self.channel_weights(x, train=train)
        summed = jnp.sum(x.astype(weights.dtype) * weights[:, None, None, :], -1, keepdims=True)
        if self.spatial_norm == "sigmoid":
            gate = nn.sigmoid(summed)
        elif self.spatial_norm == "sum":
            gate = summed / (jnp.sum(summed, (-3, -2), keepdims=True) + self.epsilon)
        else:
            gate = jax.nn.softmax(summed, axis=(-3, -2))
        return self.sow_gate(gate)

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        return x * self.gate(x, train=train).astype(x.dtype)
