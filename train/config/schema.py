"""The settings of a run: frozen dataclasses, checked when they are built."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import tyro

from train.config.errors import UserError
from train.config.validation import Checked

_T = TypeVar("_T")

_SET_ELSEWHERE = {
    "name": "model.name",
    "num_classes": "model.num_classes",
    "dtype": "model.dtype",
    "param_dtype": "the program: it is float32",
    "norm": "parallel.batch_norm",
}
"""Arguments of a net that are none of `model.options`."""


@dataclasses.dataclass(frozen=True)
class ModelConfig(Checked):
    """Which net, see `python -c "import attnjax; print(attnjax.list_models())"`."""

    _prefix: ClassVar[str] = "model."

    name: str = "cbam_resnet20_cifar"
    """A named net of attnjax."""
    num_classes: int | None = None
    """Outputs of the classifier; None takes the number of classes of the data."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute type. Parameters and statistics are always float32."""
    weights: str | None = None
    """Start from these weights, a file or folder that attnjax.convert has written; None starts afresh."""
    options: Annotated[Mapping[str, Any], tyro.conf.Suppress] = dataclasses.field(default_factory=dict, hash=False)
    """Arguments in place of the net's own, as `attnjax.create_model` takes them: plain data, only in config files."""

    def validate(self) -> None:
        import attnjax

        for name, setting in _SET_ELSEWHERE.items():
            if name in self.options:
                raise UserError(f"model.options: {name!r} is set by {setting}")
        try:
            attnjax.create_model(self.name, **self.options)
        except ValueError as error:
            raise UserError(f"model.{'options' if self.name in attnjax.list_models() else 'name'}: {error}") from error

    def require_ggam(self, setting: str) -> None:
        """Raises UserError where a setting asks for GGAM's loss and the net is not one of its nets."""
        import attnjax

        nets = attnjax.list_models("ggam_*")
        if self.name not in nets:
            raise UserError(f"{setting} needs another net than model.name={self.name!r}: take {' or '.join(nets)}")
        if "attention" in self.options and self.options["attention"] is None:
            raise UserError(f"{setting} needs the net's attention, but model.options has 'attention': None")


@dataclasses.dataclass(frozen=True)
class DataConfig(Checked):
    """Which images, and what is done to them."""

    _prefix: ClassVar[str] = "data."

    source: str = "digits"
    """`digits`, `canvas_digits` (digits at random places of larger canvases, among clutter), `tfds:NAME` (a prepared
    TFDS data set) or `folder:PATH` (images in folders named by class)."""
    train_images: int | None = None
    """How many training images to use, always the same of them; None is all."""
    batch_size: int = 64
    """Images per step, over all devices."""
    augmentation: Literal["none", "pad_crop", "random_resized_crop", "resize_crop"] = "pad_crop"
    """Training: nothing; zero-pad and crop back (CIFAR); a random area and aspect ratio (ImageNet); squeeze to a square
    of side `resize` and crop at a random place (fine-grained sets)."""
    pad: int = 4
    """Pixels that pad_crop adds on each side."""
    min_area: float = 0.08
    """random_resized_crop: smallest share of the image's area."""
    rotate: float = 0.0
    """Training: turn by a random angle of at most this many degrees."""
    color_jitter: float = 0.0
    """Training: change brightness, contrast and saturation by factors from 1 - x to 1 + x, in random order."""
    rand_augment_layers: int = 0
    """Training: how many random operations of RandAugment to apply; 0 is none."""
    rand_augment_magnitude: int = 9
    """RandAugment: their strength, of at most 30."""
    mixup: float = 0.0
    """Training: mix each batch with itself, with shares from Beta(x, x); 0 does not."""
    cutmix: float = 0.0
    """Training: paste a box of another image, its area from Beta(x, x). With mixup, each batch takes one by chance."""
    label_noise: float = 0.0
    """Share of the training labels that are replaced by another class, once and for all."""
    flip: bool = True
    """Training: mirror half of the images."""
    image_size: int | None = None
    """Side in pixels of the square images that the net sees; None keeps the images' own size, if all have the same."""
    resize: int | None = None
    """Evaluation: shorter side in pixels before the centre crop to image_size; None is image_size. With resize_crop
    both sides become this long."""
    channels: Literal[1, 3] | None = None
    """1 turns images gray, 3 turns gray ones into RGB; None keeps what the source gives."""
    mean: tuple[float, ...] = (0.5,)
    """Subtracted from images in [0, 1]: one value, or one for each channel."""
    std: tuple[float, ...] = (0.25,)
    """What images are divided by after that: one value, or one for each channel."""
    apply_exif_orientation: bool = True
    """folder: turn photos upright as their EXIF data says. False shows them as stored, as torchvision does."""
    skip_unreadable: bool = False
    """Count and skip images that cannot be decoded, instead of stopping at the first."""
    test_fraction: float = 0.2
    """folder: share of each class that is held out where PATH has no train and test or val folders."""
    tfds_dir: str | None = None
    """tfds: folder of the prepared data sets; None is $TFDS_DATA_DIR or ~/tensorflow_datasets."""
    num_threads: int = 8
    """Threads that read and augment."""

    def validate(self) -> None:
        kind, _, rest = self.source.partition(":")
        if self.source not in ("digits", "canvas_digits") and not (kind in ("tfds", "folder") and rest):
            self._require(False, "source", "digits, canvas_digits, tfds:NAME or folder:PATH")
        limits = {
            "batch_size": (1, 2**20),
            "train_images": (1, 2**31),
            "num_threads": (1, 1024),
            "pad": (0, 1024),
            "image_size": (1, 8192),
        }
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            self._require(value is None or low <= value <= high, name, f"from {low} to {high}")
        self._require(0 < self.test_fraction < 1, "test_fraction", "between 0 and 1")
        self._require(0 < self.min_area <= 1, "min_area", "above 0 and at most 1")
        self._require(0 <= self.rotate <= 180, "rotate", "from 0 to 180")
        self._require(0 <= self.color_jitter <= 1, "color_jitter", "from 0 to 1")
        self._require(0 <= self.rand_augment_layers <= 16, "rand_augment_layers", "from 0 to 16")
        self._require(0 <= self.rand_augment_magnitude <= 30, "rand_augment_magnitude", "from 0 to 30")
        self._require(self.mixup >= 0, "mixup", "at least 0")
        self._require(self.cutmix >= 0, "cutmix", "at least 0")
        self._require(0 <= self.label_noise < 1, "label_noise", "at least 0 and below 1")
        smallest = self.image_size or 1
        fits = self.resize is None or smallest <= self.resize <= 8192
        self._require(fits, "resize", f"from image_size ({smallest}) to 8192")
        if self.resize is not None and self.image_size is None:
            raise UserError("data.resize needs data.image_size, the side of the centre crop")
        if self.augmentation in ("random_resized_crop", "resize_crop") and self.image_size is None:
            raise UserError(f"data.augmentation={self.augmentation!r} needs data.image_size, the side of the crops")
        if self.augmentation == "resize_crop" and self.resize is None:
            raise UserError("data.augmentation='resize_crop' needs data.resize, the side before the crop")
        self._require(len(self.mean) in (1, 3), "mean", "one value or three")
        self._require(len(self.std) in (1, 3) and min(self.std) > 0, "std", "one value or three, all positive")


@dataclasses.dataclass(frozen=True)
class OptimizerConfig(Checked):
    """SGD with momentum as PyTorch has it, the decay added to the gradient; or AdamW or LAMB."""

    _prefix: ClassVar[str] = "optimizer."

    kind: Literal["sgd", "adamw", "lamb"] = "sgd"
    """Which optimiser. AdamW and LAMB decay the parameters apart from the gradient."""
    learning_rate: float = 0.1
    """Highest value of the schedule."""
    momentum: float = 0.9
    """sgd: share of the old step that is kept; adamw, lamb: of the old mean of gradients."""
    nesterov: bool = False
    """sgd: Nesterov's form of momentum."""
    second_moment: float = 0.999
    """adamw, lamb: share of the old mean of squared gradients that is kept."""
    weight_decay: float = 1e-4
    """L2 decay."""
    decay_norm_and_bias: bool = True
    """Whether batch norm parameters and biases decay too, as in the papers' code."""
    clip_norm: float | None = None
    """Scale gradients down to this global norm; None does not."""
    scaled_module: str | None = None
    """A submodule of the net, such as `backbone`, that learns at another rate; None is none."""
    scaled_by: float = 0.1
    """What the learning rate of `scaled_module` is multiplied by."""

    def validate(self) -> None:
        self._require(self.learning_rate > 0, "learning_rate", "positive")
        self._require(0 <= self.momentum < 1, "momentum", "at least 0 and below 1")
        self._require(0 <= self.second_moment < 1, "second_moment", "at least 0 and below 1")
        self._require(self.weight_decay >= 0, "weight_decay", "at least 0")
        self._require(self.clip_norm is None or self.clip_norm > 0, "clip_norm", "positive or None")
        self._require(self.scaled_by >= 0, "scaled_by", "at least 0")


@dataclasses.dataclass(frozen=True)
class ScheduleConfig(Checked):
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


@dataclasses.dataclass(frozen=True)
class GGAMConfig(Checked):
    """GGAM's loss, for its nets; see `attnjax.losses.ggam_loss`. The paper's form, but that it is off."""

    _prefix: ClassVar[str] = "ggam."

    weight: float = 0.0
    """Factor lambda of the guidance loss; 0 leaves it out."""
    beta_norm: Literal["sigmoid", "sigmoid_l1", "softmax"] = "sigmoid"
    """What is done to the mean gradient of each channel: a sigmoid, divided by its sum over the channels, a softmax."""
    kl: Literal["symmetric", "forward"] = "symmetric"
    """The mean of both divergences, or only that of the channel weights from the Grad-CAM weights."""
    target: Literal["label", "prediction"] = "label"
    """The gradient is that of the label's logit (with Mixup, of both labels' by shares), or of the highest one."""
    wrt: Literal["A", "D"] = "A"
    """With respect to the attention's input A or output D."""
    stop_gradient: bool = True
    """Whether the Grad-CAM weights are constants of the step."""
    reduction: Literal["mean", "sum"] = "mean"
    """Of the guidance loss over the images of a batch."""
    epsilon: float = 1e-8
    """The least that logarithms see."""

    def validate(self) -> None:
        self._require(self.weight >= 0, "weight", "at least 0")
        self._require(0 < self.epsilon < 1, "epsilon", "between 0 and 1")


@dataclasses.dataclass(frozen=True)
class ParallelConfig(Checked):
    """How a step is spread over the devices of all processes."""

    _prefix: ClassVar[str] = "parallel."

    engine: Literal["jit", "pmap"] = "jit"
    """`jit` over a mesh of all devices, or `pmap`. Both take the same steps, but for dropout's random numbers."""
    batch_norm: Literal["global", "device"] | int = "global"
    """Images whose statistics batch norm takes together: the whole batch, those of a device (a run keeps to the number
    that this was when it began), or groups of so many."""
    accumulate: int = 1
    """Parts that a batch is computed in, one after the other; batch norm sees each part alone."""
    shard_parameters: int = 1
    """Devices that share the parameters and the optimiser's state among them (FSDP); 1 keeps all on every device."""
    rematerialize: Literal["none", "block", "stage"] = "none"
    """Keep only the outputs of blocks or stages for the backward pass and compute the rest again: memory for time."""

    def validate(self) -> None:
        known = isinstance(self.batch_norm, str) or self.batch_norm >= 1
        self._require(known, "batch_norm", "'global', 'device' or at least 1")
        self._require(self.accumulate >= 1, "accumulate", "at least 1")
        self._require(self.shard_parameters >= 1, "shard_parameters", "at least 1")
        if self.engine == "pmap" and self.shard_parameters > 1:
            raise UserError("parallel.shard_parameters needs parallel.engine='jit'")


DURATIONS = ("total_steps", "total_epochs", "total_examples")


@dataclasses.dataclass(frozen=True)
class Config(Checked):
    """One run. Its duration is given in exactly one of steps, epochs and examples."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    parallel: ParallelConfig = ParallelConfig()
    ggam: GGAMConfig = GGAMConfig()
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
        parts = self.parallel.accumulate
        if self.data.batch_size % parts:
            raise UserError(f"parallel.accumulate={parts} does not divide data.batch_size={self.data.batch_size}")
        if self.ggam.weight > 0:
            self.model.require_ggam(f"ggam.weight={self.ggam.weight}")
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
    "keep_last_checkpoints",
    "keep_best_checkpoints",
    "data.num_threads",
    "parallel.engine",
    "parallel.shard_parameters",
    "parallel.rematerialize",
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
            arguments[name] = from_dict(typing.cast(Any, hints[name]), value)
        else:
            arguments[name] = _with_tuples(value)
    return cls(**arguments)


def _with_tuples(value: Any) -> Any:
    """Plain data with a tuple in place of each list, which JSON has for both."""
    if isinstance(value, Mapping):
        return {name: _with_tuples(item) for name, item in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value
