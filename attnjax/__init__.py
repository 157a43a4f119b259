"""Convolutional attention networks in JAX and Flax Linen.

The blocks are in `attnjax.attention`, the backbones in `attnjax.models`, their parts in `attnjax.layers`.
"""

from attnjax import attention, layers, models
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
    "count_macs",
    "count_parameters",
    "create_model",
    "init",
    "layers",
    "list_models",
    "model_info",
    "models",
]
