"""The settings of a run: frozen dataclasses, checked when they are built."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, TypeVar

from train.errors import UserError

_T = TypeVar("_T")


class _Checked:
    """Checks every field against its annotation when a dataclass is built."""

    _prefix: ClassVar[str] = ""

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for field in dataclasses.fields(typing.cast(Any, self)):
            annotation = hints[field.name]
            self._require(_fits(getattr(self, field.name), annotation), field.name, f"of type {_spell(annotation)}")
        self.validate()

    def validate(self) -> None:
        """Raises UserError where values contradict each other or lie out of range."""

    def _require(self, condition: bool, name: str, allowed: str) -> None:
        if not condition:
            raise UserError(f"{self._prefix}{name}={getattr(self, name)!r} must be {allowed}")


def _fits(value: Any, annotation: Any) -> bool:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (types.UnionType, typing.Union):
        return any(_fits(value, option) for option in arguments)
    if origin is Literal:
        return value in arguments
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(item, arguments[0]) for item in value)
    if annotation is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, annotation)


def _spell(annotation: Any) -> str:
    if typing.get_origin(annotation) is Literal:
        return " or ".join(repr(option) for option in typing.get_args(annotation))
    if annotation is float:
        return "float, and finite"
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)


@dataclasses.dataclass(frozen=True)
class ModelConfig(_Checked):
    """Which net, see `python -c "import attnjax; print(attnjax.list_models())"`."""

    _prefix: ClassVar[str] = "model."

    name: str = "cbam_resnet20_cifar"
    """A named net of attnjax."""
    num_classes: int | None = None
    """Outputs of the classifier; None takes the number of classes of the data."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute type. Parameters and statistics are always float32."""

    def validate(self) -> None:
        import attnjax

        try:
            attnjax.model_info(self.name)
        except ValueError as error:
            raise UserError(f"model.name: {error}") from error


@dataclasses.dataclass(frozen=True)
class DataConfig(_Checked):
    """Which images, and what is done to them."""

    _prefix: ClassVar[str] = "data."

    source: str = "digits"
    """`digits`, `tfds:NAME` (a prepared TFDS data set) or `folder:PATH` (images in folders named by class)."""
    batch_size: int = 64
    """Images per step, over all devices."""
    augmentation: Literal["none", "pad_crop", "random_resized_crop"] = "pad_crop"
    """Training: nothing; zero-pad and crop back (CIFAR); a random area and aspect ratio (ImageNet)."""
    pad: int = 4
    """Pixels that pad_crop adds on each side."""
    flip: bool = True
    """Training: mirror half of the images."""
    image_size: int | None = None
    """Side in pixels of the square images that the net sees; None keeps the images' own size, if all have the same."""
    resize: int | None = None
    """Evaluation: shorter side in pixels before the centre crop to image_size; None is image_size."""
    channels: Literal[1, 3] | None = None
    """1 turns images gray, 3 turns gray ones into RGB; None keeps what the source gives."""
    mean: tuple[float, ...] = (0.5,)
    """Subtracted from images in [0, 1]: one value, or one for each channel."""
    std: tuple[float, ...] = (0.25,)
    """What images are divided by after that: one value, or one for each channel."""
    apply_exif_orientation: bool = True
    """folder: turn photos upright as their EXIF data says. False shows them as stored, as torchvision does."""
    skip_unreadable: bool = False
    """folder: count and skip files that cannot be decoded, instead of stopping at the first."""
    test_fraction: float = 0.2
    """folder: share of each class that is held out where PATH has no train and test or val folders."""
    tfds_dir: str | None = None
    """tfds: folder of the prepared data sets; None is $TFDS_DATA_DIR or ~/tensorflow_datasets."""
    num_threads: int = 8
    """Threads that read and augment."""

    def validate(self) -> None:
        kind, _, rest = self.source.partition(":")
        if self.source != "digits" and not (kind in ("tfds", "folder") and rest):
            self._require(False, "source", "digits, tfds:NAME or folder:PATH")
        limits = {"batch_size": (1, 2**20), "num_threads": (1, 1024), "pad": (0, 1024), "image_size": (1, 8192)}
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            self._require(value is None or low <= value <= high, name, f"from {low} to {high}")
        self._require(0 < self.test_fraction < 1, "test_fraction", "between 0 and 1")
        smallest = self.image_size or 1
        fits = self.resize is None or smallest <= self.resize <= 8192
        self._require(fits, "resize", f"from image_size ({smallest}) to 8192")
        if self.resize is not None and self.image_size is None:
            raise UserError("data.resize needs data.image_size, the side of the centre crop")
        if self.augmentation == "random_resized_crop" and self.image_size is None:
            raise UserError("data.augmentation='random_resized_crop' needs data.image_size, the side of the crops")
        self._require(len(self.mean) in (1, 3), "mean", "one value or three")
        self._require(len(self.std) in (1, 3) and min(self.std) > 0, "std", "one value or three, all positive")


@dataclasses.dataclass(frozen=True)
class OptimizerConfig(_Checked):
    """SGD with momentum, as PyTorch has it: the decay is added to the gradient."""

    _prefix: ClassVar[str] = "optimizer."

    learning_rate: float = 0.1
    """Highest value of the schedule."""
    momentum: float = 0.9
    """Share of the old step that is kept."""
    nesterov: bool = False
    """Nesterov's form of momentum."""
    weight_decay: float = 1e-4
    """L2 decay."""
    decay_norm_and_bias: bool = True
    """Whether batch norm parameters and biases decay too, as in the papers' code."""
    clip_norm: float | None = None
    """Scale gradients down to this global norm; None does not."""

    def validate(self) -> None:
        self._require(self.learning_rate > 0, "learning_rate", "positive")
        self._require(0 <= self.momentum < 1, "momentum", "at least 0 and below 1")
        self._require(self.weight_decay >= 0, "weight_decay", "at least 0")
        self._require(self.clip_norm is None or self.clip_norm > 0, "clip_norm", "positive or None")


@dataclasses.dataclass(frozen=True)
class ScheduleConfig(_Checked):
    """How the learning rate goes; times are fractions of the duration."""

    _prefix: ClassVar[str] = "schedule."

    kind: Literal["constant", "step", "cosine"] = "cosine"
    """After the warm-up: stay; drop at the milestones; fall to 0 along half a cosine."""
    warmup: float = 0.0
    """Fraction in which the rate rises linearly from 0."""
    milestones: tuple[float, ...] = (0.5, 0.75)
    """step: fractions at which the rate drops."""
    factor: float = 0.1
    """step: what the rate is multiplied by at each milestone."""

    def validate(self) -> None:
        self._require(0 <= self.warmup < 1, "warmup", "at least 0 and below 1")
        rising = all(a < b for a, b in zip(self.milestones, self.milestones[1:], strict=False))
        inside = all(self.warmup < m < 1 for m in self.milestones)
        self._require(self.kind != "step" or (rising and inside), "milestones", "rising, between warmup and 1")
        self._require(self.factor > 0, "factor", "positive")


DURATIONS = ("total_steps", "total_epochs", "total_examples")


@dataclasses.dataclass(frozen=True)
class Config(_Checked):
    """One run. Its duration is given in exactly one of steps, epochs and examples."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    total_steps: int | None = None
    """Duration in steps."""
    total_epochs: float | None = None
    """Duration in passes over the training images."""
    total_examples: int | None = None
    """Duration in training images."""
    label_smoothing: float = 0.0
    """Share of the target that is spread evenly over all classes."""
    ema_decay: float | None = None
    """Evaluate an average of parameters and statistics that keeps this share of itself at each step; None has none."""
    seed: int = 0
    """Of the initial parameters, the order of the images and their augmentation."""
    checkpoint_every_steps: int = 1000
    """Steps between checkpoints."""
    evaluate_every_steps: int = 1000
    """Steps between evaluations on the test images; each is followed by a checkpoint."""
    log_every_steps: int = 50
    """Steps between lines of the log."""
    keep_last_checkpoints: int = 2
    """How many of the newest checkpoints to keep."""
    keep_best_checkpoints: int = 1
    """How many of the checkpoints with the highest test accuracy to keep besides."""

    def validate(self) -> None:
        given = [name for name in DURATIONS if getattr(self, name) is not None]
        if len(given) != 1:
            has = f"got {' and '.join(given)}" if given else "got none"
            raise UserError(f"set exactly one of {', '.join(DURATIONS)}: {has}")
        self._require(getattr(self, given[0]) > 0, given[0], "positive")
        self._require(0 <= self.label_smoothing < 1, "label_smoothing", "at least 0 and below 1")
        self._require(self.ema_decay is None or 0 < self.ema_decay < 1, "ema_decay", "between 0 and 1")
        self._require(0 <= self.seed < 2**32, "seed", "at least 0 and below 2**32")
        for name in ("checkpoint_every_steps", "evaluate_every_steps", "log_every_steps", "keep_last_checkpoints"):
            self._require(getattr(self, name) >= 1, name, "at least 1")
        self._require(self.keep_best_checkpoints >= 0, "keep_best_checkpoints", "at least 0")

    def steps(self, num_examples: int) -> int:
        """Duration in steps on a training set of that many images, at least 1."""
        if self.total_steps is not None:
            steps = self.total_steps
        elif self.total_examples is not None:
            steps = -(-self.total_examples // self.data.batch_size)
        else:
            steps = math.ceil(typing.cast(float, self.total_epochs) * num_examples / self.data.batch_size)
        if steps >= 2**31:
            raise UserError(f"a duration of {steps} steps is more than a counter of 32 bits holds")
        return steps


MAY_CHANGE = {
    *DURATIONS,
    "checkpoint_every_steps",
    "evaluate_every_steps",
    "log_every_steps",
}
"""Settings that may differ when a run is resumed."""


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Returns the settings by their names on the command line.

    Example:
      >>> flatten(Config(total_steps=5))["optimizer.momentum"]
      0.9
    """
    flat: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            flat |= flatten(value, f"{prefix}{field.name}.")
        else:
            flat[prefix + field.name] = value
    return flat


def from_dict(cls: type[_T], values: Mapping[str, Any]) -> _T:
    """Builds a config of what `dataclasses.asdict` gave, also after a trip through JSON."""
    hints = typing.get_type_hints(cls)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise UserError(f"unknown settings of {cls.__name__}: {', '.join(unknown)}")
    arguments = {}
    for name, value in values.items():
        if dataclasses.is_dataclass(hints[name]):
            value = from_dict(typing.cast(Any, hints[name]), value)
        arguments[name] = tuple(value) if isinstance(value, list) else value
    return cls(**arguments)
