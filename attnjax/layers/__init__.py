"""What every net is built of: convolution, batch norm, pooling and resizing with PyTorch's numerics."""

from attnjax.layers._conv import Conv
from attnjax.layers._defaults import with_defaults
from attnjax.layers._dtypes import at_least_float32
from attnjax.layers._initializers import Constant, Normal, VarianceScaling, he_normal_fan_out, torch_default
from attnjax.layers._mark import Mark
from attnjax.layers._native import native_convolutions
from attnjax.layers._norm import BatchNorm
from attnjax.layers._pool import avg_pool, global_pool, max_along, max_pool
from attnjax.layers._resize import resize_bilinear, resize_nearest

__all__ = [
    "BatchNorm",
    "Constant",
    "Conv",
    "Mark",
    "Normal",
    "VarianceScaling",
    "at_least_float32",
    "avg_pool",
    "global_pool",
    "he_normal_fan_out",
    "max_along",
    "max_pool",
    "native_convolutions",
    "resize_bilinear",
    "resize_nearest",
    "torch_default",
    "with_defaults",
]
