"""The settings of a run: frozen dataclasses that validate themselves."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import tyro

from train.config.errors import UserError
from train.config.validation import Validated

_SET_ELSEWHERE = {
    "name": "model.name",
    "num_classes": "model.num_classes",
    "dtype": "model.dtype",
    "param_dtype": "the program: it is float32",
    "norm": "parallel.batch_norm",
}
"""Arguments of a net that `model.options` must not have, and what sets them."""


@dataclasses.dataclass(frozen=True)
class ModelConfig(Validated):
    """The net; `python -m attnjax` lists them, `attnjax.detection.list_detectors` the detectors."""

    _prefix: ClassVar[str] = "model."

    name: str = "cbam_resnet20_cifar"
    """Name of the net, as in `attnjax.create_model`, or of a detector, as in `attnjax.detection.create_detector`."""
    num_classes: int | None = None
    """Number of classes; None is that of the data."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute dtype. Parameters and statistics are always float32."""
    weights: str | None = None
    """Initial weights, a file or folder that attnjax.convert has written; None initialises them at random."""
    options: Annotated[Mapping[str, Any], tyro.conf.Suppress] = dataclasses.field(default_factory=dict, hash=False)
    """Arguments of `attnjax.create_model` or `create_detector` that override those of the named net: plain data, only
    in config files."""

    def validate(self) -> None:
        import attnjax

        for name, setting in _SET_ELSEWHERE.items():
            if name in self.options:
                raise UserError(f"model.options: {name!r} is set by {setting}")
        create = attnjax.detection.create_detector if self.is_detector else attnjax.create_model
        try:
            create(self.name, **self.options)
        except ValueError as error:
            names = attnjax.detection.list_detectors if self.is_detector else attnjax.list_models
            raise UserError(f"model.{'options' if self.name in names() else 'name'}: {error}") from error

    @property
    def is_detector(self) -> bool:
        """Whether the net is a detector by its name."""
        from attnjax.detection import DETECTOR_KINDS

        return self.name.startswith(tuple(f"{kind}_" for kind in DETECTOR_KINDS))

    def require_ggam(self, setting: str) -> None:
        """Raises UserError if a setting needs a GGAM net and this is none."""
        import attnjax

        nets = attnjax.list_models("ggam_*")
        if self.name not in nets:
            raise UserError(f"{setting} needs another net than model.name={self.name!r}: take {' or '.join(nets)}")
        if "attention" in self.options and self.options["attention"] is None:
            raise UserError(f"{setting} needs the net's attention, but model.options has 'attention': None")


@dataclasses.dataclass(frozen=True)
class DataConfig(Validated):
    """Source, augmentation and preprocessing of the images."""

    _prefix: ClassVar[str] = "data."

    source: str = "digits"
    """`digits`, `canvas_digits` (digits at random positions of larger, cluttered canvases), `tfds:NAME` (a prepared
    TFDS data set), `folder:PATH` (images in folders named by class), or another one of train/data/sources.py. For
    detectors `coco:PATH` or `voc:PATH` (annotations of objects in the format of COCO or Pascal VOC)."""
    train_images: int | None = None
    """Number of training images to use, always the same ones; None uses all."""
    batch_size: int = 64
    """Images per step, over all devices."""
    augmentation: str = "pad_crop"
    """Training: `none`; `pad_crop` zero-pads and crops back (CIFAR); `random_resized_crop` crops a random area and
    aspect ratio (ImageNet); `resize_crop` resizes to a square of side `resize` and crops at a random position
    (fine-grained sets); or another one of train/data/augment.py. Several are joined by `+` and applied in order."""
    pad: int = 4
    """pad_crop: pixels added on each side."""
    min_area: float = 0.08
    """random_resized_crop: smallest fraction of the image's area."""
    rotate: float = 0.0
    """Training: rotate by a random angle of at most this many degrees."""
    color_jitter: float = 0.0
    """Training: scale brightness, contrast and saturation by factors from 1 - x to 1 + x, in random order."""
    rand_augment_layers: int = 0
    """Training: number of RandAugment's operations to apply; 0 applies none."""
    rand_augment_magnitude: int = 9
    """RandAugment: magnitude, at most 30."""
    mixup: float = 0.0
    """Training: mix each image with its neighbour, with a share from Beta(x, x) for each batch; 0 turns it off."""
    cutmix: float = 0.0
    """Training: paste a box of the neighbouring image, its area from Beta(x, x); 0 turns it off. With mixup, each batch
    draws one of the two."""
    label_noise: float = 0.0
    """Fraction of the training labels replaced by other classes, the same ones in every epoch."""
    flip: bool = True
    """Training: mirror half of the images."""
    image_size: int | None = None
    """Side in pixels of the net's square input; None keeps the size of the images, which must be the same for all."""
    resize: int | None = None
    """Evaluation: shorter side in pixels before the centre crop to image_size, both sides with resize_crop; None is
    image_size."""
    channels: Literal[1, 3] | None = None
    """1 converts images to grey, 3 converts grey ones to RGB; None keeps those of the source."""
    mean: tuple[float, ...] = (0.5,)
    """Subtracted from images in [0, 1]: one value, or one per channel."""
    std: tuple[float, ...] = (0.25,)
    """Divisor of the images after that: one value, or one per channel."""
    apply_exif_orientation: bool = True
    """folder, coco, voc: rotate photos upright as their EXIF data says. False leaves them as stored."""
    skip_unreadable: bool = False
    """Skip and count images that cannot be decoded, instead of stopping at the first."""
    test_fraction: float = 0.2
    """folder, coco: fraction of each class, or of the images of a single annotations.json, held out for the test."""
    tfds_dir: str | None = None
    """tfds: folder of the prepared data sets; None is $TFDS_DATA_DIR or ~/tensorflow_datasets."""
    num_threads: int = 8
    """Threads that read and augment images."""

    def validate(self) -> None:
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
        self._require(len(self.mean) in (1, 3), "mean", "one value or three")
        self._require(len(self.std) in (1, 3) and min(self.std) > 0, "std", "one value or three, all positive")


@dataclasses.dataclass(frozen=True)
class OptimizerConfig(Validated):
    """The optimizer: SGD with momentum and decay as in PyTorch, AdamW or LAMB."""

    _prefix: ClassVar[str] = "optimizer."

    kind: Literal["sgd", "adamw", "lamb"] = "sgd"
    """sgd adds the weight decay to the gradient; adamw and lamb decouple it."""
    learning_rate: float = 0.1
    """Peak of the schedule."""
    momentum: float = 0.9
    """sgd: momentum; adamw, lamb: decay rate of the first moment."""
    nesterov: bool = False
    """sgd: Nesterov momentum."""
    second_moment: float = 0.999
    """adamw, lamb: decay rate of the second moment."""
    weight_decay: float = 1e-4
    """Weight decay."""
    decay_norm_and_bias: bool = True
    """Whether to decay batch norm parameters and biases too, as the papers' code does."""
    clip_norm: float | None = None
    """Clip gradients to this global norm; None does not clip."""
    scaled_module: str | None = None
    """Submodule of the net, such as `backbone`, with its own learning rate; None for none."""
    scaled_by: float = 0.1
    """Factor on the learning rate of `scaled_module`."""

    def validate(self) -> None:
        self._require(self.learning_rate > 0, "learning_rate", "positive")
        self._require(0 <= self.momentum < 1, "momentum", "at least 0 and below 1")
        self._require(0 <= self.second_moment < 1, "second_moment", "at least 0 and below 1")
        self._require(self.weight_decay >= 0, "weight_decay", "at least 0")
        self._require(self.clip_norm is None or self.clip_norm > 0, "clip_norm", "positive or None")
        self._require(self.scaled_by >= 0, "scaled_by", "at least 0")


@dataclasses.dataclass(frozen=True)
class ScheduleConfig(Validated):
    """Schedule of the learning rate; times are fractions of the duration."""

    _prefix: ClassVar[str] = "schedule."

    kind: Literal["constant", "step", "cosine"] = "cosine"
    """After the warm-up: constant; dropping at the milestones; half a cosine down to 0."""
    warmup: float = 0.0
    """Duration of the linear warm-up from 0."""
    milestones: tuple[float, ...] = (0.5, 0.75)
    """step: when the rate drops."""
    factor: float = 0.1
    """step: factor on the rate at each milestone."""

    def validate(self) -> None:
        self._require(0 <= self.warmup < 1, "warmup", "at least 0 and below 1")
        rising = all(a < b for a, b in zip(self.milestones, self.milestones[1:], strict=False))
        inside = all(self.warmup < m < 1 for m in self.milestones)
        self._require(self.kind != "step" or (rising and inside), "milestones", "rising, between warmup and 1")
        self._require(self.factor > 0, "factor", "positive")


@dataclasses.dataclass(frozen=True)
class GGAMConfig(Validated):
    """GGAM's guidance loss, see `attnjax.losses.GGAM`. The defaults are the paper's, but the weight, which is 0."""

    _prefix: ClassVar[str] = "ggam."

    weight: float = 0.0
    """Factor lambda of the guidance loss; 0 turns it off."""
    beta_norm: Literal["sigmoid", "sigmoid_l1", "softmax"] = "sigmoid"
    """Normalisation of the Grad-CAM weights: sigmoid, sigmoid divided by its sum over the channels, or softmax."""
    kl: Literal["symmetric", "forward"] = "symmetric"
    """Mean of both KL divergences, or only that of the channel weights from the Grad-CAM weights."""
    target: Literal["label", "prediction"] = "label"
    """Logit whose gradient is taken: the label's (with mixup the weighted sum of both), or the highest one."""
    wrt: Literal["A", "D"] = "A"
    """Gradient with respect to the attention's input A or output D."""
    stop_gradient: bool = True
    """Whether to treat the Grad-CAM weights as constants."""
    reduction: Literal["mean", "sum"] = "mean"
    """Reduction of the guidance loss over the batch."""
    statistics: Literal["running", "batch"] = "running"
    """Batch-norm statistics in the logit whose gradient is taken; with those of the batch, its images mix."""
    epsilon: float = 1e-8
    """Lower bound of the arguments of logarithms."""

    def validate(self) -> None:
        self._require(self.weight >= 0, "weight", "at least 0")
        self._require(0 < self.epsilon < 1, "epsilon", "between 0 and 1")


@dataclasses.dataclass(frozen=True)
class DetectionConfig(Validated):
    """Images, objects and loss of detectors; other nets do not use it. The defaults are those of COCO."""

    _prefix: ClassVar[str] = "detection."

    short_side: int = 800
    """Shorter side in pixels to which images are resized, with their aspect ratio."""
    long_side: int = 1333
    """Longer side in pixels that they do not exceed: both rounded up to multiples of 32 are the net's input."""
    min_scale: float = 1.0
    """Training: the shorter side is drawn from this fraction of short_side to short_side."""
    max_objects: int = 100
    """Objects of an image in the loss; of more, the largest are kept."""
    mask_stride: int = 4
    """Pixels of an image per pixel of its objects' masks in training: 1, 2, 4, 8, 16 or 32."""
    loss: Annotated[Mapping[str, Any], tyro.conf.Suppress] = dataclasses.field(default_factory=dict, hash=False)
    """Arguments of `attnjax.detection.RetinaLoss` or `RCNNLoss`: plain data, only in config files."""

    def validate(self) -> None:
        self._require(32 <= self.short_side <= 8192, "short_side", "from 32 to 8192")
        self._require(self.short_side <= self.long_side <= 8192, "long_side", f"from {self.short_side} to 8192")
        self._require(0 < self.min_scale <= 1, "min_scale", "above 0 and at most 1")
        self._require(1 <= self.max_objects <= 4096, "max_objects", "from 1 to 4096")
        self._require(self.mask_stride in (1, 2, 4, 8, 16, 32), "mask_stride", "1, 2, 4, 8, 16 or 32")


@dataclasses.dataclass(frozen=True)
class ParallelConfig(Validated):
    """Distribution of a step over the devices of all processes."""

    _prefix: ClassVar[str] = "parallel."

    engine: Literal["jit", "pmap"] = "jit"
    """`jit` over a mesh of all devices, or `pmap`. Both compute the same, except for dropout's random numbers."""
    batch_norm: Literal["global", "device"] | int = "global"
    """Images over which batch norm computes its statistics: the whole batch, those of one device (their number is fixed
    at the start of a run), or groups of this many."""
    accumulate: int = 1
    """Number of micro-batches per step, whose gradients are averaged; batch norm is computed for each."""
    shard_parameters: int = 1
    """Devices over which parameters and optimizer state are sharded (FSDP); 1 replicates them."""
    rematerialize: Literal["none", "block", "stage"] = "none"
    """Store only the outputs of blocks or stages for the backward pass and recompute the rest, to save memory."""

    def validate(self) -> None:
        known = isinstance(self.batch_norm, str) or self.batch_norm >= 1
        self._require(known, "batch_norm", "'global', 'device' or at least 1")
        self._require(self.accumulate >= 1, "accumulate", "at least 1")
        self._require(self.shard_parameters >= 1, "shard_parameters", "at least 1")
        if self.engine == "pmap" and self.shard_parameters > 1:
            raise UserError("parallel.shard_parameters needs parallel.engine='jit'")


DURATIONS = ("total_steps", "total_epochs", "total_examples")


@dataclasses.dataclass(frozen=True)
class Config(Validated):
    """The settings of one run. Exactly one of `total_steps`, `total_epochs` and `total_examples` is set."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    parallel: ParallelConfig = ParallelConfig()
    ggam: GGAMConfig = GGAMConfig()
    detection: DetectionConfig = DetectionConfig()
    total_steps: int | None = None
    """Duration in steps."""
    total_epochs: float | None = None
    """Duration in epochs."""
    total_examples: int | None = None
    """Duration in training images."""
    label_smoothing: float = 0.0
    """Label smoothing: probability spread evenly over all classes."""
    ema_decay: float | None = None
    """Decay of the exponential moving average of parameters and statistics, which is evaluated; None keeps none."""
    seed: int = 0
    """Seed of the initial parameters, the order of the images and their augmentation."""
    checkpoint_every_steps: int = 1000
    """Steps between checkpoints."""
    evaluate_every_steps: int = 1000
    """Steps between evaluations on the test images; each is followed by a checkpoint."""
    log_every_steps: int = 50
    """Steps between lines of the log."""
    keep_last_checkpoints: int = 2
    """Number of newest checkpoints to keep."""
    keep_best_checkpoints: int = 1
    """Number of checkpoints with the highest score to keep, which may be among the newest."""

    def validate(self) -> None:
        parts = self.parallel.accumulate
        if self.data.batch_size % parts:
            raise UserError(f"parallel.accumulate={parts} does not divide data.batch_size={self.data.batch_size}")
        if self.detection != DetectionConfig() and not self.model.is_detector:
            raise UserError(f"detection settings are for detectors, such as retinanet_resnet50: got {self.model.name}")
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
        """Number of steps on a training set of `num_examples` images, at least 1."""
        if self.total_steps is not None:
            steps = self.total_steps
        elif self.total_examples is not None:
            steps = -(-self.total_examples // self.data.batch_size)
        else:
            steps = math.ceil(typing.cast(float, self.total_epochs) * num_examples / self.data.batch_size)
        if steps >= 2**31:
            raise UserError(f"a duration of {steps} steps does not fit a counter of 32 bits")
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
"""Settings that may change when a run is resumed."""
