"""GGAM's net: a backbone, its attention, a global max-pool and a head of two layers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from attnjax._arguments import check_keywords
from attnjax.layers import BatchNorm, Constant, global_pool, torch_default, with_defaults
from attnjax.models._blocks import check_constructors


class GGAMNet(nn.Module):
    """The net of the Grad-CAM guided attention module, for fine-grained classes.

    A = backbone(x), D = attention(A), logits = fc(elu(bn2(fc1(bn1(max over h, w of D))))).

    Submodules: `backbone`, `attention`, `head_bn1`, `head_fc1`, `head_bn2` and `fc`.

    Args:
      backbone: constructor of a net with `method="features"`, an ordered dict of maps of which the last is A, such as
        `Partial(ResNet, (3, 4, 6, 3))` or `VGG`. It is called with `name` and those of `dtype`, `param_dtype` and
        `norm` that are among its parameters; its own classifier is not used.
      attention: constructor of an attention block, such as `Partial(ChannelSpatialAttention, reduction=16)`, or None
        for the baseline, D = A. It is called as in `ResNet`.
      num_classes: outputs of the classifier; 0 leaves `fc` out, so that the net returns the hidden features.
      hidden: features of the hidden layer.
      norm: constructor of the batch norms, called with `dtype`, `param_dtype` and `name`.
      dtype: compute type.
      param_dtype: type of parameters and statistics. What a constructor is given beforehand stays.

    Call with `(x, train=..., freeze_batch_norm=False)`: x is (b, h, w, c) and floating, of any size that the backbone
    takes. `freeze_batch_norm` makes batch norm, the head's too, use and keep its running statistics in training.

    Returns:
      (b, n) logits in float32 or wider, or (b, hidden) where num_classes is 0. `method="features"` takes the same
      arguments and gives the backbone's maps and, where there is attention, D as `attention`, in order;
      `method="attend"` gives D of an A, and `method="head"` the logits of a D. GGAM's loss, `attnjax.losses.ggam_loss`,
      finds S as `intermediates/attention/channel_weights`, see `ChannelSpatialAttention`.

    Raises:
      ValueError: `num_classes` is negative, `hidden` is not positive, or the backbone is given arguments of a
        classifier, which the constructor says; or the backbone refuses x, or there is a single
        image in training, whose batch statistics are not defined.

    Example:
      >>> import attnjax
      >>> from attnjax import Partial
      >>> from attnjax.attention import ChannelSpatialAttention
      >>> from attnjax.models import GGAMNet, ResNet
      >>> model = GGAMNet(Partial(ResNet, (3, 4, 6, 3)), ChannelSpatialAttention, num_classes=200)
      >>> attnjax.count_parameters(model, (1, 448, 448, 3))
      25191304

    References:
      Xu et al., "Grad-CAM Guided Channel-spatial Attention Module for Fine-grained Visual Classification", 2021;
      official code, PRIS-CV/CAM-Guided-Attention, `cars_sp_CAM.py`.

    Notes:
      The released script pools over a 14x14 window, all of the map for images of 448x448; here any map is pooled
      globally. Its VGG-16 scripts flatten a 7x7 map instead.
    """

    backbone: Callable[..., nn.Module]
    attention: Callable[..., nn.Module] | None = None
    num_classes: int = 1000
    hidden: int = 512
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        check_constructors(self)
        given = getattr(self.backbone, "keywords", {})
        unused = [name for name in ("num_classes", "dropout_rate") if given.get(name)]
        check_keywords("backbone", self.backbone, unused, "its classifier is not used")
        if self.num_classes < 0 or self.hidden < 1:
            raise ValueError(f"num_classes={self.num_classes} must be at least 0 and hidden={self.hidden} at least 1")
        super().__post_init__()

    def setup(self) -> None:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        dense = {"kernel_init": torch_default, "bias_init": Constant(0.0), **dtypes}
        self._backbone = with_defaults(self.backbone, dtypes, norm=self.norm)(name="backbone")
        if self.attention is not None:
            self._attention = with_defaults(self.attention, dtypes, batch_norm=self.norm)(name="attention")
        norm = with_defaults(self.norm, dtypes)
        self.head_bn1, self.head_bn2 = norm(), norm()
        self.head_fc1 = nn.Dense(self.hidden, **dense)
        if self.num_classes:
            self.fc = nn.Dense(self.num_classes, **dense)

    def features(self, x: jax.Array, *, train: bool, freeze_batch_norm: bool = False) -> OrderedDict[str, jax.Array]:
        """Returns the backbone's outputs by name, in order, and D as `attention`."""
        maps = OrderedDict(self._backbone.features(x, train=train, freeze_batch_norm=freeze_batch_norm))
        if self.attention is not None:
            last = next(reversed(maps.values()))
            maps["attention"] = self.attend(last, train=train, freeze_batch_norm=freeze_batch_norm)
        return maps

    def attend(self, last: jax.Array, *, train: bool, freeze_batch_norm: bool = False) -> jax.Array:
        """Returns D of A, (b, h', w', c) -> (b, h', w', c)."""
        if self.attention is None:
            return last
        return self._attention(last, train=train and not freeze_batch_norm)

    def head(self, attended: jax.Array, *, train: bool, freeze_batch_norm: bool = False) -> jax.Array:
        """Returns the logits of D, (b, h', w', c) -> (b, n)."""
        train = train and not freeze_batch_norm
        pooled = global_pool(attended, "max")
        y = self.head_fc1(self.head_bn1(pooled.astype(self.dtype), train=train))
        y = nn.elu(self.head_bn2(y, train=train))
        return (self.fc(y) if self.num_classes else y).astype(pooled.dtype)

    def __call__(self, x: jax.Array, *, train: bool, freeze_batch_norm: bool = False) -> jax.Array:
        maps = self.features(x, train=train, freeze_batch_norm=freeze_batch_norm)
        return self.head(next(reversed(maps.values())), train=train, freeze_batch_norm=freeze_batch_norm)
