"""Convolutional attention networks in JAX and Flax Linen.

The blocks are in `attnjax.attention`, the backbones in `attnjax.models`, their parts in `attnjax.layers`; they are
trained with `attnjax.training` and `attnjax.losses`. `attnjax.explain` shows what nets look at, and `attnjax.convert`
reads and writes the weights of PyTorch code.
"""

from attnjax import attention, convert, detection, explain, layers, losses, models, training
from attnjax._partial import Partial
from attnjax.convert import load_pretrained
from attnjax.models import (
    ModelInfo,
    Result,
    count_macs,
    count_parameters,
    create_model,
    init,
    list_models,
    model_info,
)

__version__ = "0.1.0"

__all__ = [
    "ModelInfo",
    "Partial",
    "Result",
    "attention",
    "convert",
    "count_macs",
    "count_parameters",
    "create_model",
    "detection",
    "explain",
    "init",
    "layers",
    "list_models",
    "load_pretrained",
    "losses",
    "model_info",
    "models",
    "training",
]
