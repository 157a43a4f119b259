"""What is known of a named net."""

from __future__ import annotations

import dataclasses

import flax.linen as nn

from attnjax._partial import Partial


@dataclasses.dataclass(frozen=True)
class Result:
    """A published figure.

    Attributes:
      dataset: what it was measured on.
      top1_error, top5_error: per cent; None where none was published.
      source: who published it.
      verified: whether it was read at its source; False means that it was recalled and is to be checked.

    Example:
      >>> import attnjax
      >>> attnjax.model_info("cbam_resnet50").results[0].top1_error
      22.378
    """

    dataset: str
    top1_error: float
    top5_error: float | None
    source: str
    verified: bool


@dataclasses.dataclass(frozen=True)
class ModelInfo:
    """What is known of a named net.

    Attributes:
      name: as `create_model` takes it.
      parameters: exact count with `num_classes` outputs.
      macs: multiply-accumulates of convolutions and matrix products for one image of `input_size`; biases, norms,
        activations, pooling and gating are not counted.
      input_size: height and width in pixels of the images it was published for.
      num_classes: its default.
      variant: which of the published variants this is.
      paper: where it was published.
      results: its published results.

    Example:
      >>> import attnjax
      >>> attnjax.model_info("se_resnet50").parameters
      28088024
    """

    name: str
    parameters: int
    macs: int
    input_size: tuple[int, int]
    num_classes: int
    variant: str
    paper: str
    results: tuple[Result, ...] = ()


@dataclasses.dataclass(frozen=True)
class Net:
    """A row of the table."""

    constructor: Partial[nn.Module]
    info: ModelInfo
