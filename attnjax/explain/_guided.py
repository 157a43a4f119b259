"""Guided backpropagation: gradients of the images that pass a ReLU only where they are positive."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np

from attnjax.explain._cam import grad_cam
from attnjax.explain._tap import Net, check_images
from attnjax.explain._target import Target, scores


def guided_backprop(
    model: nn.Module, variables: Any, images: jax.Array, *, target: Target = None, **kwargs: Any
) -> jax.Array:
    """Gradient of the score with respect to the images, where only what is positive passes back through a ReLU.

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
    layer: str | Sequence[str],
    target: Target = None,
    method: str = "grad_cam",
    **kwargs: Any,
) -> jax.Array:
    """Guided backpropagation times the class activation map, which tells classes apart.

    Args:
      model, variables, images, layer, target, method, **kwargs: as in `grad_cam`.

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
    cam = grad_cam(model, variables, images, layer=layer, target=target, method=method, **kwargs)
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
    """The function with guided ReLUs: its program, run equation by equation."""
    program = jax.make_jaxpr(function)(images)
    if not _has_relu(program.jaxpr):
        raise ValueError("guided backpropagation needs a net with ReLUs, and this one has none")
    return lambda images: _run(program.jaxpr, program.consts, images)[0]


def _run(jaxpr: jax.extend.core.Jaxpr, consts: Sequence[Any], *args: Any) -> list[Any]:
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, jax.extend.core.Literal) else values[atom]

    for equation in jaxpr.eqns:
        inputs = [read(atom) for atom in equation.invars]
        if _is_relu(equation):
            results = [_guided_relu(x) for x, atom in zip(inputs, equation.invars, strict=True) if atom in values]
        else:
            params = equation.params if _has_own_gradient(equation) else _rewritten(equation.params)
            functions, params = equation.primitive.get_bind_params(params)
            results = equation.primitive.bind(*functions, *inputs, **params)
            results = results if equation.primitive.multiple_results else [results]
        values.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _rewritten(value: Any) -> Any:
    """Parameters of an equation, the programs among them with guided ReLUs."""
    match value:
        case dict():
            return {name: _rewritten(item) for name, item in value.items()}
        case tuple():
            return tuple(map(_rewritten, value)) if any(map(_is_program, value)) else value
        case jax.extend.core.ClosedJaxpr() if _has_relu(value.jaxpr):
            types = [jax.ShapeDtypeStruct(t.shape, t.dtype, weak_type=t.weak_type) for t in value.in_avals]
            return jax.make_jaxpr(partial(_run, value.jaxpr, value.consts))(*types)
        case jax.extend.core.Jaxpr() if _has_relu(value):
            return _rewritten(jax.extend.core.ClosedJaxpr(value, ())).jaxpr
    return value


def _is_program(value: Any) -> bool:
    return isinstance(value, jax.extend.core.ClosedJaxpr | jax.extend.core.Jaxpr)


def _has_own_gradient(equation: Any) -> bool:
    return equation.primitive.name.startswith(("custom_jvp_call", "custom_vjp_call"))


def _has_relu(jaxpr: jax.extend.core.Jaxpr) -> bool:
    return any(_is_relu(equation) or _hides_relu(equation) for equation in jaxpr.eqns)


def _hides_relu(equation: Any) -> bool:
    return not _has_own_gradient(equation) and any(map(_has_relu, jax.extend.core.jaxprs_in_params(equation.params)))


def _is_relu(equation: Any) -> bool:
    """Whether it is the maximum of an array and 0, or a call of nothing else."""
    if equation.primitive.name == "max":
        return any(isinstance(atom, jax.extend.core.Literal) and np.all(atom.val == 0) for atom in equation.invars)
    programs = list(jax.extend.core.jaxprs_in_params(equation.params))
    return len(programs) == 1 and len(programs[0].eqns) == 1 and _is_relu(programs[0].eqns[0])
