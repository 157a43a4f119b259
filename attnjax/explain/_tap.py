"""Finds layers of a net by name, reads what they give and adds to it, without hooks or state."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

_ENDS = {"__call__": "", "sow_gate": "/gate"}
"""Methods that can be tapped, and the suffix of their layer names after the module's path."""

_ADDED, _SEEN = "explain_added", "explain_seen"
"""Variable collections: additions to the results of a method, and the results themselves, call by call.

As variables they pass through lifted transformations such as `nn.remat`.
"""


@dataclasses.dataclass(frozen=True)
class Layer:
    """One call of a module, or of its gate.

    `map` is the shape and dtype of its output, or None if that is not an array; `epsilon` is that of a batch norm.
    """

    name: str
    path: tuple[str, ...]
    method: str
    call: int
    map: Any
    epsilon: float


class Net:
    """A net with its variables as a function of images, in evaluation mode."""

    def __init__(self, model: nn.Module, variables: Mapping[str, Any], kwargs: Mapping[str, Any]) -> None:
        takes_train = "train" in inspect.signature(type(model).__call__).parameters
        self._model, self.variables = model, variables
        self._kwargs = ({"train": False} if takes_train else {}) | dict(kwargs)

    def __call__(self, images: jax.Array) -> Any:
        return self._model.apply(self.variables, images, **self._kwargs)

    def sown(self, images: jax.Array) -> Mapping[str, Any]:
        """The `intermediates` that the modules sow."""
        _, state = self._model.apply(self.variables, images, mutable=["intermediates"], **self._kwargs)
        return state.get("intermediates", {})

    def layers(self, images: jax.Array) -> list[Layer]:
        """All layers whose output is a map, in the order of their calls."""
        return [layer for calls in self._calls(images).values() for layer in calls if _is_map(layer, images)]

    def find(self, names: Sequence[str], images: jax.Array) -> list[Layer]:
        """The named layers; raises a ValueError for an unknown or ambiguous name."""
        calls = self._calls(images)
        layers = [_find(name, calls) for name in names]
        for layer in layers:
            if not _is_map(layer, images):
                raise ValueError(
                    f"layer={layer.name!r} returns {getattr(layer.map, 'shape', 'no array')}, "
                    f"not a floating map (b={len(images)}, h, w, c)"
                )
        return layers

    def _calls(self, images: jax.Array) -> dict[str, list[Layer]]:
        found: dict[str, list[Layer]] = {}

        def record(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
            y, path, method = call(*args, **kwargs), context.module.path, context.method_name
            if path and method in _ENDS:
                name = "/".join(path) + _ENDS[method]
                calls = found.setdefault(name, [])
                shape = jax.ShapeDtypeStruct(y.shape, y.dtype) if isinstance(y, jax.Array) else None
                epsilon = getattr(context.module, "epsilon", 0.0)
                calls.append(Layer(name, path, method, len(calls), shape, epsilon))
            return y

        with nn.intercept_methods(record):
            jax.eval_shape(
                lambda images: self(images), images
            )  # a new function each time, since a cached one is not traced
        return found

    def read(self, images: jax.Array, layers: Sequence[Layer]) -> tuple[Any, list[jax.Array]]:
        """Outputs of the net, and the layers' maps."""
        return self.tapped(images, layers, _zeros(layers))

    def tapped(
        self, images: jax.Array, layers: Sequence[Layer], added: Sequence[jax.Array]
    ) -> tuple[Any, list[jax.Array]]:
        """Outputs of the net, and the layers' maps, with something added to each of them."""
        additions: dict[tuple[str, ...], dict[str, jax.Array]] = {}
        for layer, addition in zip(layers, added, strict=True):
            additions.setdefault((*layer.path, layer.method), {})[str(layer.call)] = addition

        def tap(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
            y, module, method = call(*args, **kwargs), context.module, context.method_name
            if (*module.path, method) not in additions:
                return y
            addition: dict[str, jax.Array] = module.get_variable(_ADDED, method, {})
            index = str(len(module.get_variable(_SEEN, method, ())))
            y = y + addition[index] if index in addition else y
            module.sow(_SEEN, method, y)
            return y

        variables = {**self.variables, _ADDED: unflatten_dict(additions)}
        with nn.intercept_methods(tap):
            outputs, state = self._model.apply(variables, images, mutable=[_SEEN], **self._kwargs)
        seen = flatten_dict(state.get(_SEEN, {}))
        lost = [layer.name for layer in layers if (*layer.path, layer.method) not in seen]
        if lost:
            raise ValueError(f"layer={lost[0]!r} is called inside of nn.scan or nn.vmap, where it cannot be read")
        return outputs, [seen[*layer.path, layer.method][layer.call] for layer in layers]


def check_images(images: jax.Array) -> None:
    """Raises a ValueError unless the images are floating (b, h, w, c)."""
    if images.ndim != 4 or not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"images must be floating with axes (b, h, w, c), got {images.dtype}{list(images.shape)}")


def _zeros(layers: Sequence[Layer]) -> list[jax.Array]:
    """Zeros in the shapes of the layers' maps."""
    return [jnp.zeros(layer.map.shape, layer.map.dtype) for layer in layers]


def _is_map(layer: Layer, images: jax.Array) -> bool:
    x = layer.map
    return x is not None and x.ndim == 4 and len(x) == len(images) and jnp.issubdtype(x.dtype, jnp.floating)


def _find(layer: str, calls: Mapping[str, list[Layer]]) -> Layer:
    match = re.fullmatch(r"(.*)\[(\d+)\]", layer, re.DOTALL)
    name, index = (match[1], int(match[2])) if match else (layer, None)
    fits = [name] if name in calls else [path for path in calls if path.endswith(f"/{name}")]
    if len(fits) > 1:
        raise ValueError(f"layer={layer!r} is the end of {len(fits)} paths, such as {fits[0]} and {fits[-1]}")
    if not fits:
        ends = {"/".join(parts[start:]): 0 for parts in (path.split("/") for path in calls) for start in range(3)}
        near = difflib.get_close_matches(name, [end for end in ends if end], n=3, cutoff=0)
        raise ValueError(f"unknown layer={layer!r}: did you mean {' or '.join(near)}?")
    found = calls[fits[0]]
    if (index is None and len(found) > 1) or (index or 0) >= len(found):
        raise ValueError(f"layer={layer!r} is called {len(found)} times: use {name}[0] to {name}[{len(found) - 1}]")
    return found[index or 0]


def maps_and_gradients(
    net: Net, images: jax.Array, layers: Sequence[Layer], score: Callable[[Any], jax.Array]
) -> tuple[list[jax.Array], jax.Array, list[jax.Array]]:
    """Maps of layers, and the gradients of each image's score with respect to the images and the maps.

    One backward pass suffices for all images, since they do not interact in evaluation mode.
    """

    def scores(images: jax.Array, *added: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
        outputs, maps = net.tapped(images, layers, added)
        return score(outputs), maps

    values, pullback, maps = jax.vjp(scores, images, *_zeros(layers), has_aux=True)
    of_images, *of_maps = pullback(jnp.ones_like(values))
    return maps, of_images, of_maps


def check_influence(net: Net, images: jax.Array, layers: Sequence[Layer], score: Callable[[Any], jax.Array]) -> None:
    """Raises a ValueError if the score does not depend on a layer."""
    for layer in layers:

        def change(added: jax.Array, layer: Layer = layer) -> jax.Array:
            return score(net.tapped(images, [layer], [added])[0])

        if not _depends(change, layer.map):
            raise ValueError(f"layer={layer.name!r} has no influence on the score: its gradient is 0 everywhere")


def _depends(function: Callable[[jax.Array], jax.Array], argument: jax.ShapeDtypeStruct) -> bool:
    """Whether the result depends on the argument symbolically, whatever the value of the derivative."""
    reached = []

    @jax.custom_vjp
    def watch(y: jax.Array) -> jax.Array:
        return y

    def forward(y: Any) -> tuple[jax.Array, None]:
        reached.append(y.perturbed)
        return y.value, None

    watch.defvjp(forward, lambda _, cotangent: (cotangent,), symbolic_zeros=True)
    jax.eval_shape(lambda x: jax.jvp(lambda x: watch(function(x)), (x,), (x,)), argument)
    return any(reached)
