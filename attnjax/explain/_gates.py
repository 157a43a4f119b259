"""The gates of attention blocks, and the shares of them that are closed or open."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from attnjax.explain._tap import Net, check_images

_SOWN = ("gate", "channel_weights", "attention")
"""Names that attention blocks sow: `gate`, GGAM's channel weights S, and global context's positions."""


def attention_maps(model: nn.Module, variables: Any, images: jax.Array, **kwargs: Any) -> OrderedDict[str, jax.Array]:
    """Collects the multipliers of attention blocks: channel and spatial gates, scale weights and masks.

    Args:
      model, variables, images, **kwargs: as in `grad_cam`.

    Returns:
      Arrays by the path of the block followed by `/gate`, in the order of the net: (b, 1, 1, c) of channel gates,
      (b, h', w', 1) of spatial gates, (b, h', w', c) of gates that are both and of RAN's masks, (b, s, 1, 1, c / s)
      of PSA's weights of s scales, (b, 1, 1, s, c) of selective kernels; `/channel_weights` (b, c) for S of GGAM,
      `/attention` (b, h', w', 1) for the positions of global context. `name[1]` is the second call of a block that is
      called several times. Empty for a net without attention.

    Raises:
      ValueError: the images are not floating with four axes.

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
    """Statistics of one gate over all of its values and images, each a scalar.

    Attributes:
      mean: mean.
      deviation: standard deviation; for a gate that does not depend on its input, that over the channels.
      dead: share of values below a threshold, which suppress their input. Meaningless for gates that sum to 1 over
        positions or channels (GGAM's S and its sum and softmax gates, global context), whose values are all small.
      saturated: share of values above a threshold, which pass their input on.

    Example: see `gate_statistics`.
    """

    mean: jax.Array
    deviation: jax.Array
    dead: jax.Array
    saturated: jax.Array


def gate_statistics(
    model: nn.Module, variables: Any, images: jax.Array, *, dead: float = 0.05, saturated: float = 0.95, **kwargs: Any
) -> OrderedDict[str, GateStatistics]:
    """Computes how open the gates of each attention block are, and the shares that are dead or saturated.

    Args:
      model, variables, images, **kwargs: as in `grad_cam`.
      dead: gates below this value count as dead.
      saturated: gates above this value count as saturated.

    Returns:
      Statistics by gate, named as in `attention_maps`.

    Raises:
      ValueError: `dead` is larger than `saturated`, or the images are not floating with four axes.

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
