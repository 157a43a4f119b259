"""Class activation methods from maps and their gradients: (b, h, w, c), (b, h, w, c) -> (b, h, w, c).

Each returns weighted maps, which are then summed over the channels.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

_SPACE = (1, 2)


def grad_cam(maps: jax.Array, gradients: jax.Array) -> jax.Array:
    """Weights each channel with its mean gradient (Selvaraju et al., ICCV 2017)."""
    return jnp.mean(gradients, _SPACE, keepdims=True) * maps


def grad_cam_plus_plus(maps: jax.Array, gradients: jax.Array) -> jax.Array:
    """Weights each channel with its positive gradients, spread over its objects (Chattopadhay et al., WACV 2018)."""
    total = jnp.sum(maps, _SPACE, keepdims=True)
    alpha = gradients**2 / (2 * gradients**2 + total * gradients**3 + 1e-6)
    return jnp.sum(jax.nn.relu(gradients) * alpha, _SPACE, keepdims=True) * maps


def xgrad_cam(maps: jax.Array, gradients: jax.Array) -> jax.Array:
    """Weights each channel with the mean of its gradient over its activation (Fu et al., BMVC 2020)."""
    total = jnp.sum(maps, _SPACE, keepdims=True)
    return jnp.sum(gradients * maps / (total + 1e-7), _SPACE, keepdims=True) * maps


def hires_cam(maps: jax.Array, gradients: jax.Array) -> jax.Array:
    """Weights each value with its gradient (Draelos and Carin, 2020)."""
    return gradients * maps


def layer_cam(maps: jax.Array, gradients: jax.Array) -> jax.Array:
    """Weights each value with its gradient where that is positive (Jiang et al., TIP 2021)."""
    return jax.nn.relu(gradients) * maps


def grad_cam_elementwise(maps: jax.Array, gradients: jax.Array) -> jax.Array:
    """Weights each value with its gradient and drops negative products (pytorch-grad-cam)."""
    return jax.nn.relu(gradients * maps)


BY_GRADIENT: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "grad_cam": grad_cam,
    "grad_cam++": grad_cam_plus_plus,
    "hires_cam": hires_cam,
    "layer_cam": layer_cam,
    "xgrad_cam": xgrad_cam,
    "grad_cam_elementwise": grad_cam_elementwise,
    "eigen_grad_cam": hires_cam,
}


def principal(maps: jax.Array) -> jax.Array:
    """Projects each position's channels on their first principal component, (b, h, w, c) -> (b, h, w).

    The sign of the component is that of the SVD; on CPUs that is LAPACK's, as in pytorch-grad-cam.
    """
    b, h, w, c = maps.shape
    points = maps.reshape(b, h * w, c)
    points = points - jnp.mean(points, 1, keepdims=True)
    first = jnp.linalg.svd(points, full_matrices=False)[2][:, 0]
    return jnp.einsum("bnc,bc->bn", points, first, precision=jax.lax.Precision.HIGHEST).reshape(b, h, w)
