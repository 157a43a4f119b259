"""Element-wise losses of detectors."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax


def focal_loss(logits: jax.Array, targets: jax.Array, *, alpha: float | None = 0.25, gamma: float = 2.0) -> jax.Array:
    """Binary cross-entropy in which well classified elements weigh little: alpha_t (1 - p_t)^gamma times it.

    p_t is the probability of the target: sigmoid(logit) where it is 1.

    Args:
      logits: floating (...).
      targets: 0 or 1, or between, floating (...).
      alpha: weight of targets 1, 1 - alpha of targets 0; None weighs both by 1.
      gamma: exponent.

    Returns:
      (...).

    Example:
      >>> import jax.numpy as jnp
      >>> from attnjax.detection import focal_loss
      >>> [round(loss.item(), 4) for loss in focal_loss(jnp.array([2.0, -2.0]), jnp.array([1.0, 1.0]))]
      [0.0005, 0.4125]

    References:
      Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017.
    """
    probability = jax.nn.sigmoid(logits)
    of_other = probability * (1 - targets) + (1 - probability) * targets
    loss = optax.sigmoid_binary_cross_entropy(logits, targets)
    if gamma:
        loss = of_other**gamma * loss
    return loss if alpha is None else (alpha * targets + (1 - alpha) * (1 - targets)) * loss


def smooth_l1(values: jax.Array, targets: jax.Array, *, beta: float = 1.0) -> jax.Array:
    """0.5 d^2 / beta where the difference |d| is below beta, |d| - beta / 2 elsewhere.

    Args:
      values, targets: floating (...).
      beta: threshold between quadratic and linear; 0 is the absolute difference.

    Returns:
      (...).

    Example:
      >>> import jax.numpy as jnp
      >>> from attnjax.detection import smooth_l1
      >>> smooth_l1(jnp.array([0.5, -3.0]), jnp.zeros(2)).tolist()
      [0.125, 2.5]

    References:
      Girshick, "Fast R-CNN", ICCV 2015.
    """
    difference = values - targets
    size = difference * jax.lax.stop_gradient(jnp.sign(difference))  # its gradient at 0 is 0, that of jnp.abs is 1
    if beta == 0:
        return size
    return jnp.where(size < beta, 0.5 * jnp.square(difference) / beta, size - 0.5 * beta)
