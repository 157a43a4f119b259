"""Global Context (Cao, Xu, Lin, Wei and Hu, ICCV workshops 2019)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from attnjax._arguments import check_effect
from attnjax.attention._gate_mlp import GateMLP, check_width
from attnjax.attention._gated import Gated, Values, constant_layer, open_logit
from attnjax.layers import Constant, Conv, VarianceScaling, at_least_float32, global_pool


class GlobalContext(Gated):
    """Adds to each position, or scales it by, what one attention map over all positions gathers.

    context = sum_p softmax_p(w . x + b) x_p, y = sigmoid(MLP_s(context)) x + MLP_a(context), where either MLP may be
    absent. Each is fc, layer norm, ReLU, fc.

    Args:
      attention: gather with the learned map; False takes the mean (the paper's ablation).
      add: whether y has the additive term: the paper's and the released GC block.
      scale: whether y has the gate (a variant of the released code; timm's default is this one alone).
      reduction, hidden, divisor, activation: of both MLPs, see `SqueezeExcite`.
      gate_fn: squashing function of the scale's logits.
      epsilon: of the layer norms; 1e-5 in the released code, 1e-6 in timm.
      dtype: compute type; None takes the input's. The context and the gate are float32 or wider.
      param_dtype: type of the parameters.

    Returns:
      (b, h, w, c) of the input's type. Sown in `intermediates`: `attention` (b, h, w, 1), which sums to 1 for each
      image, and `gate` (b, 1, 1, c), where they exist.

    Raises:
      ValueError: both `add` and `scale` are False, or `reduction`, `hidden` or `divisor` is not as in `SqueezeExcite`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from attnjax.attention import GlobalContext
      >>> x = jnp.ones((2, 8, 8, 64))
      >>> variables = GlobalContext().init(jax.random.key(0), x, train=False)
      >>> bool((GlobalContext().apply(variables, x, train=False) == x).all())
      True

    References:
      Cao et al., "GCNet: Non-local Networks Meet Squeeze-Excitation Networks and Beyond", ICCV workshops 2019;
      official code, xvjiarui/GCNet.

    Notes:
      The last layers start at 0, as released: a fresh additive block is the identity. timm does so for `add` only.
    """

    attention: bool = True
    add: bool = True
    scale: bool = False
    reduction: float = 16
    hidden: int | None = None
    divisor: int | None = None
    activation: Callable[[jax.Array], jax.Array] = nn.relu
    gate_fn: Callable[[jax.Array], jax.Array] = nn.sigmoid
    epsilon: float = 1e-5
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        check_width(self)
        if not self.scale:
            check_effect(self, "scale=False", "gate_fn")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        if not (self.add or self.scale):
            raise ValueError("add=False and scale=False leave nothing to do: at least one must be True")
        context, dtype = self._context(x), x.dtype
        mlp = {
            "activation": self.activation,
            "norm": "layer",
            "epsilon": self.epsilon,
            "hidden": self.hidden,
            "divisor": self.divisor,
            "last_init": Constant(0.0),
            "dtype": dtype if self.dtype is None else self.dtype,
            "param_dtype": self.param_dtype,
        }
        if self.scale:
            logits = GateMLP(self.reduction, name="scale_mlp", **mlp)(context).astype(context.dtype)
            gate = self.sow_gate(self.gate_fn(logits)[:, None, None, :])
            x = x * gate.astype(dtype)
        if self.add:
            x = x + GateMLP(self.reduction, name="add_mlp", **mlp)(context)[:, None, None, :].astype(dtype)
        return x

    def identity_parameters(self) -> Values:
        scale = constant_layer("scale_mlp/fc2", open_logit(self.gate_fn)) if self.scale else {}
        return scale | (constant_layer("add_mlp/fc2", 0.0) if self.add else {})

    def _context(self, x: jax.Array) -> jax.Array:
        """Returns what is gathered, (b, c), float32 or wider."""
        if not self.attention:
            return global_pool(x, "avg")
        b, h, w, c = x.shape
        dtype = x.dtype if self.dtype is None else self.dtype
        init = VarianceScaling(2.0, "fan_in", "normal")
        options = {"kernel_init": init, "dtype": dtype, "param_dtype": self.param_dtype}
        wide = at_least_float32(x.dtype)
        logits = Conv(1, 1, use_bias=True, name="attention_conv", **options)(x).astype(wide)
        weights = jax.nn.softmax(logits.reshape(b, h * w), axis=-1)
        self.sow("intermediates", "attention", weights.reshape(b, h, w, 1))
        return jnp.einsum("bn,bnc->bc", weights, x.astype(wide).reshape(b, h * w, c))
