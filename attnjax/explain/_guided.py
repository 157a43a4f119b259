"""Guided backpropagation: gradients of the images that pass a ReLU only where they are positive."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, jaxpr_as_fun, jaxprs_in_params

from attnjax.explain._cam import grad_cam
from attnjax.explain._tap import Net, check_images
from attnjax.explain._target import Target, scores


def guided_backprop(
    model: nn.Module, variables: Any, images: jax.Array, *, target: Target = None, **kwargs: Any
) -> jax.Array:
    """Gradient of the score with respect to the images, with only positive gradients passed back through ReLUs.

    A ReLU's gradient is g where x > 0; here it is max(g, 0) where x > 0.

    Args:
      model, variables, images, target, **kwargs: as in `grad_cam`.

    Returns:
      An array like the images.

    Raises:
      ValueError: `target` does not fit the net's outputs, or the net has no ReLU.

    Example:
      >>> import jax, jax.numpy as jnp, attnjax
      >>> from attnjax.explain import guided_backprop
      >>> model = attnjax.create_model("resnet20_cifar", num_classes=10)
      >>> variables = attnjax.init(model, jax.random.key(0), (1, 32, 32, 3))
      >>> guided_backprop(model, variables, jnp.ones((1, 32, 32, 3)), target=3).shape
      (1, 32, 32, 3)

    References:
      Springenberg et al., "Striving for Simplicity: The All Convolutional Net", ICLR 2015 workshop.

    Notes:
      ReLUs are `jax.nn.relu` and maxima with a constant 0, wherever the net calls them, those of attention blocks
      included; `jax.nn.relu6` and smooth activations keep their gradients.
    """
    check_images(images)
    net = Net(model, variables, kwargs)
    guided = _guided(lambda images: scores(net(images), target, len(images)), images)
    values, pullback = jax.vjp(guided, images)
    return pullback(jnp.ones_like(values))[0]


def guided_grad_cam(
    model: nn.Module,
    variables: Any,
    images: jax.Array,
    *,
    layer: str | Sequence[str] | None = None,
    target: Target = None,
    method: str = "grad_cam",
    eigen_smooth: bool = False,
    aug_smooth: bool = False,
    **kwargs: Any,
) -> jax.Array:
    """Guided backpropagation times the class activation map, which makes it class-discriminative.

    Args:
      model, variables, images, layer, target, method, eigen_smooth, aug_smooth, **kwargs: as in `grad_cam`.

    Returns:
      An array like the images.

    Raises:
      ValueError: as `grad_cam` and `guided_backprop` do.

    Example:
      >>> import jax, jax.numpy as jnp, attnjax
      >>> from attnjax.explain import guided_grad_cam
      >>> model = attnjax.create_model("resnet20_cifar", num_classes=10)
      >>> variables = attnjax.init(model, jax.random.key(0), (1, 32, 32, 3))
      >>> guided_grad_cam(model, variables, jnp.ones((1, 32, 32, 3)), layer="stage3", target=3).shape
      (1, 32, 32, 3)

    References:
      Selvaraju et al., "Grad-CAM", ICCV 2017, section 3.2.
    """
    options: Any = {"layer": layer, "method": method, "eigen_smooth": eigen_smooth, "aug_smooth": aug_smooth, **kwargs}
    cam = grad_cam(model, variables, images, target=target, **options)
    return guided_backprop(model, variables, images, target=target, **kwargs) * cam.map[..., None].astype(images.dtype)


@jax.custom_vjp
def _guided_relu(x: jax.Array) -> jax.Array:
    return jax.nn.relu(x)


def _forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jax.nn.relu(x), x > 0


def _backward(positive: jax.Array, cotangent: jax.Array) -> tuple[jax.Array]:
    return (jnp.where(positive, jax.nn.relu(cotangent), jnp.zeros_like(cotangent)),)


_guided_relu.defvjp(_forward, _backward)


def _guided(function: Callable[[jax.Array], jax.Array], images: jax.Array) -> Callable[[jax.Array], jax.Array]:
    """Traces the function and replaces its ReLUs by guided ones."""
    program = jax.make_jaxpr(function)(images)
    if not _has_relu(program.jaxpr):
        raise ValueError("guided backpropagation needs a net with ReLUs, and this one has none")
    run = jaxpr_as_fun(_replaced(program))
    return lambda images: run(images)[0]


def _replaced(value: Any) -> Any:
    """Replaces ReLUs in a jaxpr, an equation or its parameters."""
    if isinstance(value, Jaxpr):
        return value.replace(eqns=[_replaced(equation) for equation in value.eqns])
    if isinstance(value, ClosedJaxpr):
        return value.replace(jaxpr=_replaced(value.jaxpr))
    if isinstance(value, JaxprEqn):
        if _is_relu(value):
            (x,) = (atom for atom in value.invars if not isinstance(atom, Literal))
            (guided,) = jax.make_jaxpr(_guided_relu)(x.aval).eqns
            return guided.replace(invars=[x], outvars=value.outvars)
        return value.replace(params=_replaced(value.params)) if _hides_relu(value) else value
    if isinstance(value, dict):
        return {name: _replaced(item) for name, item in value.items()}
    return tuple(map(_replaced, value)) if type(value) is tuple else value


def _has_relu(program: Jaxpr) -> bool:
    return any(_is_relu(equation) or _hides_relu(equation) for equation in program.eqns)


def _hides_relu(equation: JaxprEqn) -> bool:
    """Whether the equation contains a jaxpr with ReLUs and no custom derivative rule."""
    has_rule = equation.primitive.name.startswith(("custom_jvp_call", "custom_vjp_call"))
    return not has_rule and any(map(_has_relu, jaxprs_in_params(equation.params)))


def _is_relu(equation: JaxprEqn) -> bool:
    """Whether the equation is the maximum of an array and 0, or a call of only that."""
    if equation.primitive.name == "max":
        return any(isinstance(atom, Literal) and np.all(atom.val == 0) for atom in equation.invars)
    programs = list(jaxprs_in_params(equation.params))
    return len(equation.invars) == len(programs) == 1 and len(programs[0].eqns) == 1 and _is_relu(programs[0].eqns[0])
