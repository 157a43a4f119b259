"""Class activation maps of any net, at any of its layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from attnjax._choice import check_choice
from attnjax.explain._ablation import ablation_cam, score_cam
from attnjax.explain._full_grad import full_grad
from attnjax.explain._methods import BY_GRADIENT, principal
from attnjax.explain._scale import picture
from attnjax.explain._tap import Layer, Net, check_images, check_influence, maps_and_gradients
from attnjax.explain._target import Target, scorer
from attnjax.layers import at_least_float32


class CAM(NamedTuple):
    """Result of `grad_cam`, a pytree.

    Attributes:
      map: (b, h, w) of the images' size, in [0, 1], float32 or wider; 0 everywhere if nothing contributes to the score.
      raw: maps by layer name, (b, h', w') of the layer's size, before negative values are set to 0.

    Example: see `grad_cam`.
    """

    map: jax.Array
    raw: dict[str, jax.Array]


def grad_cam(
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
) -> CAM:
    r"""Computes the class activation map of images: the regions that contribute to the score of a class.

    Grad-CAM: raw = sum over c of w_c A_c, with the layer's map A and w_c = mean over h, w of d score / d A_c. Its
    positive part is scaled to [0, 1] for each image and resized. The other methods use other weights.

    Args:
      model: any Linen module, called with `(images)`, and with `train=False` if it has such a parameter.
      variables: its variables.
      images: (b, h, w, channels), floating.
      layer: a key of the net's `features` such as `"stage4"`, a module's path such as `"stage4_block1/attention"`, or
        a suffix of one; the path of an attention block followed by `/gate` is its gate; `name[1]` is the second call of
        a module that is called several times. For several layers, the map is their mean. `full_grad` always uses all
        layers with a bias.
      target: the score to explain: None, the largest logit; a class or (b,) classes, their logits; or a callable
        from the net's outputs to (b,) numbers, each of which depends only on its own image.
      method: one of `METHODS`: with gradients `"grad_cam"`, `"grad_cam++"`, `"hires_cam"`, `"layer_cam"`,
        `"xgrad_cam"`, `"grad_cam_elementwise"`, `"eigen_grad_cam"`, `"full_grad"`; with the map alone `"eigen_cam"`;
        with a run of the net for every channel `"ablation_cam"`, `"score_cam"`.
      eigen_smooth: project the weighted channels on their first principal component instead of adding them.
      aug_smooth: average over six runs: the images and their mirror images, each times 0.9, 1 and 1.1. `raw` is that of
        the original images.
      **kwargs: further arguments of the model's call.

    Returns:
      A `CAM` with the map at the images' size and the raw maps of the layers.

    Raises:
      ValueError: `method` or `layer` is unknown (the message has the nearest names), the layer has no map or no
        influence on the score, or `target` does not fit the net's outputs.

    Example:
      >>> import jax, jax.numpy as jnp, attnjax
      >>> from functools import partial
      >>> from attnjax.explain import grad_cam
      >>> model = attnjax.create_model("cbam_resnet20_cifar", num_classes=10)
      >>> variables = attnjax.init(model, jax.random.key(0), (1, 32, 32, 3))
      >>> explain = jax.jit(partial(grad_cam, model, layer="stage3"))
      >>> cam = explain(variables, jnp.ones((2, 32, 32, 3)), target=jnp.array([3, 7]))
      >>> cam.map.shape, cam.raw["stage3"].shape
      ((2, 32, 32), (2, 8, 8))

    References:
      Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization", ICCV 2017;
      numbers as in pytorch-grad-cam 1.5.7. Those of the other methods are named in its README.

    Notes:
      One backward pass gives every image's own gradient, which holds for nets whose images do not interact, as in
      evaluation mode. The sign of a principal component is arbitrary: it is the SVD's, on CPUs the same as in
      pytorch-grad-cam. `ablation_cam` sets a channel to 0, like its paper, whereas that package uses a large negative
      number for layers that are nowhere 0.
    """
    check_choice("method", method, METHODS)
    check_images(images)
    if not layer and method != "full_grad":
        raise ValueError(f"layer={layer!r}: method={method!r} needs a layer, such as 'stage4' of a ResNet")
    if eigen_smooth and method == "full_grad":
        raise ValueError("eigen_smooth=True needs a method that weighs channels, and method='full_grad' does not")
    net = Net(model, variables, kwargs)
    names = [layer] if isinstance(layer, str) else list(layer or ())

    def explain(images: jax.Array) -> CAM:
        if method == "full_grad":
            raw = {"full_grad": full_grad(net, images, target)}
        else:
            weighted = _METHODS[method](net, net.find(names, images), images, target)
            reduce = principal if eigen_smooth or method in _PROJECTED else _sum
            raw = {name: reduce(x) for name, x in zip(names, weighted, strict=True)}
        return CAM(picture(list(raw.values()), images.shape[1:3]), raw)

    return _smoothed(explain, images) if aug_smooth else explain(images)


def _sum(x: jax.Array) -> jax.Array:
    return jnp.sum(x, -1)


def _by_gradient(weigh: Callable[[jax.Array, jax.Array], jax.Array]) -> Callable[..., list[jax.Array]]:
    def method(net: Net, layers: Sequence[Layer], images: jax.Array, target: Target) -> list[jax.Array]:
        score = scorer(target, len(images))
        check_influence(net, images, layers, score)
        maps, _, gradients = maps_and_gradients(net, images, layers, score)
        return [weigh(_wide(x), _wide(g)) for x, g in zip(maps, gradients, strict=True)]

    return method


def _maps(net: Net, layers: Sequence[Layer], images: jax.Array, target: Target) -> list[jax.Array]:
    del target
    return [_wide(x) for x in net.read(images, layers)[1]]


def _wide(x: jax.Array) -> jax.Array:
    return x.astype(at_least_float32(x.dtype))


_METHODS: dict[str, Callable[..., list[jax.Array]]] = {
    **{name: _by_gradient(weigh) for name, weigh in BY_GRADIENT.items()},
    "eigen_cam": _maps,
    "ablation_cam": ablation_cam,
    "score_cam": score_cam,
}
METHODS = (*_METHODS, "full_grad")
_PROJECTED = ("eigen_cam", "eigen_grad_cam")


def _smoothed(explain: Callable[[jax.Array], CAM], images: jax.Array) -> CAM:
    def run(change: tuple[jax.Array, jax.Array]) -> CAM:
        mirrored, factor = change
        turned = jnp.where(mirrored, images[:, :, ::-1], images)
        cam = explain(turned * factor)
        return cam._replace(map=jnp.where(mirrored, cam.map[:, :, ::-1], cam.map))

    mirrored = jnp.array([False, False, False, True, True, True])
    factors = jnp.array([1.0, 0.9, 1.1] * 2, images.dtype)
    every = jax.lax.map(run, (mirrored, factors))
    return CAM(jnp.mean(every.map, 0), {name: raw[0] for name, raw in every.raw.items()})
