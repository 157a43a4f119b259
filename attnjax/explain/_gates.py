"""The gates of a net's attention blocks, and how many of them are shut or wide open."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from attnjax.explain._tap import Net, check_images

_SOWN = ("gate", "channel_weights", "attention")
"""What attention blocks sow: all have a gate but GGAM's S, its channels' weights, and global context's positions."""


def attention_maps(model: nn.Module, variables: Any, images: jax.Array, **kwargs: Any) -> OrderedDict[str, jax.Array]:
    """Collects what attention blocks multiply maps with: channel and spatial gates, weights of scales, masks.

    Args:
      model, variables, images, **kwargs: as in `grad_cam`.

    Returns:
      By the block's path with `/gate` behind it, in the net's order: (b, 1, 1, c) of channel gates, (b, h', w', 1) of
      spatial gates, (b, h', w', c) of gates that are both and of RAN's masks, (b, s, 1, 1, c / s) of PSA's weights of s
      scales, (b, 1, 1, s, c) of selective kernels; `/channel_weights` (b, c) for S of GGAM, `/attention` (b, h', w', 1)
      for the positions of global context. `name[1]` is the second call of a block that is called several times.
      Empty for a net without attention.

    Raises:
      ValueError: the images are not floating or have not four axes.

    Example:
      >>> import jax, jax.numpy as jnp, attnjax
      >>> from attnjax.explain import attention_maps
      >>> model = attnjax.create_model("cbam_resnet20_cifar", num_classes=10)
      >>> variables = attnjax.init(model, jax.random.key(0), (1, 32, 32, 3))
      >>> gates = attention_maps(model, variables, jnp.ones((2, 32, 32, 3)))
      >>> gates["stage3_block2/attention/channel_gate/gate"].shape
      (2, 1, 1, 64)
      >>> gates["stage3_block2/attention/spatial_gate/gate"].shape
      (2, 8, 8, 1)
    """
    check_images(images)
    maps: OrderedDict[str, jax.Array] = OrderedDict()
    for path, values in flatten_dict(dict(Net(model, variables, kwargs).sown(images))).items():
        if path[-1] in _SOWN:
            name = "/".join(path)
            names = [name] if len(values) == 1 else [f"{name}[{call}]" for call in range(len(values))]
            maps.update(zip(names, values, strict=True))
    return maps


class GateStatistics(NamedTuple):
    """Statistics of one gate over the values of all images, each a number.

    Attributes:
      mean: the mean value.
      deviation: the standard deviation; of a gate that does not depend on its input it is that over channels.
      dead: share of values below a bound: what is behind them has no effect. Gates that sum to 1 over their positions
        or channels (GGAM's S, its gates of sum and softmax, global context) are all small: for them it says nothing.
      saturated: share of values above a bound: the gate hands its input on.

    Example: see `gate_statistics`.
    """

    mean: jax.Array
    deviation: jax.Array
    dead: jax.Array
    saturated: jax.Array


def gate_statistics(
    model: nn.Module, variables: Any, images: jax.Array, *, dead: float = 0.05, saturated: float = 0.95, **kwargs: Any
) -> OrderedDict[str, GateStatistics]:
    """Tells for each attention block how open its gates are, and which share of them does nothing.

    Args:
      model, variables, images, **kwargs: as in `grad_cam`.
      dead: gates below this count as shut.
      saturated: gates above this count as open.

    Returns:
      By the gate's name, as in `attention_maps`.

    Raises:
      ValueError: `dead` is larger than `saturated`, or the images are none.

    Example:
      >>> import jax, jax.numpy as jnp, attnjax
      >>> from attnjax.explain import gate_statistics
      >>> model = attnjax.create_model("cbam_resnet20_cifar", num_classes=10)
      >>> variables = attnjax.init(model, jax.random.key(0), (1, 32, 32, 3))
      >>> statistics = gate_statistics(model, variables, jnp.ones((2, 32, 32, 3)))
      >>> fresh = statistics["stage1_block0/attention/spatial_gate/gate"]
      >>> float(fresh.mean), float(fresh.dead), float(fresh.saturated)
      (0.5, 0.0, 0.0)
    """
    if dead > saturated:
        raise ValueError(f"dead={dead} must not be larger than saturated={saturated}")
    gates = attention_maps(model, variables, images, **kwargs)
    return OrderedDict(
        (
            name,
            GateStatistics(jnp.mean(gate), jnp.std(gate), jnp.mean(gate < dead), jnp.mean(gate > saturated)),
        )
        for name, gate in gates.items()
    )
