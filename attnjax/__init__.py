"""Convolutional attention networks in JAX and Flax Linen.

The blocks are in `attnjax.attention`, the backbones in `attnjax.models`, their parts in `attnjax.layers`, what they are
trained with in `attnjax.losses`; `attnjax.explain` shows what nets look at, and `attnjax.convert` reads and writes the
weights of PyTorch code.
"""

from attnjax import attention, convert, explain, layers, losses, models
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
    "Result",
    "attention",
    "convert",
    "count_macs",
    "count_parameters",
    "create_model",
    "explain",
    "init",
    "layers",
    "list_models",
    "load_pretrained",
    "losses",
    "model_info",
    "models",
]
