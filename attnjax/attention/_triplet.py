"""Triplet attention (Misra et al., WACV 2021)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from attnjax._partial import Partial
from attnjax.attention._cbam import SpatialGate
from attnjax.attention._gated import Gated, Values, below, constant_norm, open_logit
from attnjax.layers import BatchNorm


class TripletAttention(Gated):
    """Scales each value by the mean of three gates, one for each plane through the map: c-w, h-c and h-w.

    y = (M_cw + M_hc + M_hw) x / 3, where a plane's gate is CBAM's spatial gate of the map turned so that the remaining
    axis is pooled: sigmoid(bn(f([max; mean]))) with a convolution f to one channel.

    Args:
      spatial: whether the h-w gate, CBAM's own, takes part. Without it y is the mean of the other two.
      kernel_size: side of the three kernels, 7 in the released code; the paper's ablation has 3 and 5.
      dtype: compute type; None takes the input's. The gates are float32 or wider.
      param_dtype: type of parameters and statistics.
      batch_norm: constructor of the batch norms, called with `dtype`, `param_dtype`, `name` and `momentum`.

    Returns:
      (b, h, w, c) of the input's type. Parameters: 300 by default, whatever c. The mean gate (b, h, w, c) is sown as
      `intermediates/gate`, and each branch's own, with the pooled axis last, below `cw`, `hc` and `hw`.

    Raises:
      ValueError: `kernel_size` is even.

    Example:
      >>> import attnjax
      >>> from attnjax.attention import TripletAttention
      >>> attnjax.count_parameters(TripletAttention(), (1, 8, 6, 64))
      300

    References:
      Misra et al., "Rotate to Attend: Convolutional Triplet Attention Module", WACV 2021; official code,
      landskape-ai/triplet-attention.

    Notes:
      The norms' momentum is 0.99 (PyTorch's 0.01), as released; their scales start at 1, other than in CBAM.
    """

    spatial: bool = True
    kernel_size: int = 7
    dtype: Any = None
    param_dtype: Any = jnp.float32
    batch_norm: Callable[..., nn.Module] = BatchNorm

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        options = {
            "dtype": self.dtype,
            "param_dtype": self.param_dtype,
            "norm": Partial(self.batch_norm, momentum=0.99),
        }
        gates = []
        for name, axes in self._turns().items():
            branch = SpatialGate(self.kernel_size, name=name, **options)
            gates.append(branch.gate(jnp.transpose(x, axes), train=train).transpose(axes))
        gate = self.sow_gate(sum(gates[1:], gates[0]) / len(gates))
        return x * gate.astype(x.dtype)

    def identity_parameters(self) -> Values:
        values = constant_norm("bn", open_logit(nn.sigmoid))
        return {path: value for name in self._turns() for path, value in below(name, values).items()}

    def _turns(self) -> dict[str, tuple[int, int, int, int]]:
        """The order of axes that each branch sees, by its name."""
        turns = {"cw": (0, 3, 2, 1), "hc": (0, 1, 3, 2)}
        return turns | {"hw": (0, 1, 2, 3)} if self.spatial else turns
