"""Fast initialisation, and the size of a net without running it."""

from __future__ import annotations

import dataclasses
import math
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from attnjax.layers import Constant, Normal, VarianceScaling


def init(model: nn.Module, key: jax.Array, input_shape: Sequence[int], **kwargs: Any) -> dict[str, Any]:
    """Makes a module's variables, by NumPy where the key has a value and by `model.init` where it is traced.

    `model.init` compiles one program for every shape of random numbers. This draws the parameters whose initializer is
    one of `attnjax.layers` with NumPy instead, each from a generator seeded by the key and the parameter's path, and
    leaves to `model.init` what it does not know and what `nn.vmap` or `nn.scan` have given more axes. It takes about
    as long as tracing the module once. The distribution is the same, the numbers are not.

    Under `jit`, `vmap` and `eval_shape`, where the key has no value yet, this is `model.init`, with its numbers. To
    initialise a net that is too large for one device, use `jax.jit(partial(attnjax.init, model, input_shape=...),
    out_shardings=...)(key)`.

    Args:
      model: a Linen module called with `(x, train=False)`.
      key: a PRNG key, typed or not.
      input_shape: shape of x, with any batch size.
      **kwargs: further keyword arguments of the call.

    Returns:
      A dict of collections, `params` and, where the module has state, `batch_stats`.

    Raises:
      ValueError: the module refuses the input.

    Example:
      >>> import jax, attnjax
      >>> model = attnjax.create_model("resnet20_cifar", num_classes=10)
      >>> variables = attnjax.init(model, jax.random.key(0), (1, 32, 32, 3))
      >>> sorted(variables), variables["params"]["conv1"]["kernel"].shape
      (['batch_stats', 'params'], (3, 3, 3, 16))
    """

    def ordinary(key: jax.Array) -> Any:
        return model.init(key, jnp.zeros(input_shape, jnp.float32), **{"train": False} | kwargs)

    if isinstance(key, jax.core.Tracer):
        return ordinary(key)
    initializers: dict[tuple[str, ...], tuple[Any, tuple[int, ...]]] = {}
    drawn: dict[tuple[str, ...], jax.ShapeDtypeStruct] = {}

    def record(call: Any, args: Any, call_kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        module, result = context.module, call(*args, **call_kwargs)
        params = module.variables.get("params", {})
        for field in dataclasses.fields(module):
            initializer, name = getattr(module, field.name, None), field.name.removesuffix("_init")
            if isinstance(initializer, Constant | Normal | VarianceScaling) and name in params:
                initializers["params", *module.path, name] = (initializer, params[name].shape)
        return result

    @jax.jit
    def remainder(key: jax.Array) -> dict[tuple[str, ...], jax.Array]:
        with nn.intercept_methods(record):
            flat = flatten_dict(ordinary(key))
        lifted = {path for path, (_, shape) in initializers.items() if flat[path].shape != shape}
        drawn.update({path: jax.typeof(flat[path]) for path in initializers if path not in lifted})
        return {path: leaf for path, leaf in flat.items() if path not in drawn}

    flat = dict(remainder(key))
    seed = np.asarray(jax.random.key_data(key) if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else key)
    for path, leaf in drawn.items():
        rng = np.random.Generator(np.random.PCG64([*seed.ravel().tolist(), zlib.crc32("/".join(path).encode())]))
        flat[path] = jnp.asarray(initializers[path][0].sample(rng, leaf.shape), leaf.dtype)
    return unflatten_dict(flat)


def count_parameters(model: nn.Module, input_shape: Sequence[int]) -> int:
    """Counts the parameters of a module, without computing anything.

    Example:
      >>> import attnjax
      >>> attnjax.count_parameters(attnjax.create_model("cbam_resnet50"), (1, 224, 224, 3))
      28089624
    """
    shapes = jax.eval_shape(_init_call(model, input_shape), jax.random.key(0))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes.get("params")))


def count_macs(model: nn.Module, input_shape: Sequence[int]) -> int:
    """Counts multiply-accumulates of convolutions and matrix products, without computing anything.

    Biases, norms, activations, pooling, resizing and gating are not counted: the convention of the papers.

    Args:
      model: a Linen module called with `(x, train=False)`.
      input_shape: shape of x; a batch of 1 gives the figure per image.

    Example:
      >>> import attnjax
      >>> attnjax.count_macs(attnjax.create_model("resnet18"), (1, 224, 224, 3))
      1814073344
    """
    closed = jax.make_jaxpr(_init_call(model, input_shape))(jax.random.key(0))
    return sum(_macs(equation) for equation in _equations(closed.jaxpr))


def _init_call(model: nn.Module, input_shape: Sequence[int]) -> Any:
    return lambda key: model.init(key, jnp.zeros(input_shape, jnp.float32), train=False)


def _equations(jaxpr: Any) -> Iterator[Any]:
    for equation in jaxpr.eqns:
        yield equation
        params = equation.params
        if params.get("name") == "interpolation":
            continue
        if platforms := params.get("branches_platforms"):  # a choice by platform: count the form of accelerators
            params = {"jaxpr": params["branches"][platforms.index(None)]}
        for inner in jax.extend.core.jaxprs_in_params(params):
            yield from _equations(inner)


def _macs(equation: Any) -> int:
    if equation.primitive.name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        inputs_of_group = kernel[equation.params["dimension_numbers"].rhs_spec[1]]
        taps = math.prod(kernel[axis] for axis in equation.params["dimension_numbers"].rhs_spec[2:])
        return math.prod(equation.outvars[0].aval.shape) * inputs_of_group * taps
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        depth = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
        return math.prod(equation.outvars[0].aval.shape) * depth
    return 0
