"""The definition of a run, and what its settings mean for the library: optimizer, sharding, batch norm."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax

from attnjax.training import (
    PMAP_AXIS,
    Layout,
    adamw,
    constant_schedule,
    cosine_schedule,
    lamb,
    sgd,
    step_schedule,
)
from train.config import Config
from train.config.errors import UserError


@dataclasses.dataclass(frozen=True)
class Run:
    """The definition of a run, stored in its config.json: its settings and a description of its data.

    Attributes:
      config: the settings.
      class_names: names of the classes, by label.
      image_shape: height, width and channels of the net's input.
      num_examples: number of training images.
    """

    config: Config
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    num_examples: int

    def with_seed(self, seed: int) -> Run:
        """The same run with another seed."""
        return dataclasses.replace(self, config=dataclasses.replace(self.config, seed=seed))

    def with_batches_of(self, images: int) -> Run:
        """The same run with another batch size, for evaluations: gradients are not accumulated."""
        data = dataclasses.replace(self.config.data, batch_size=images)
        parallel = dataclasses.replace(self.config.parallel, accumulate=1)
        return dataclasses.replace(self, config=dataclasses.replace(self.config, data=data, parallel=parallel))

    @property
    def total_steps(self) -> int:
        """Number of training steps."""
        return self.config.steps(self.num_examples)

    def schedule(self) -> optax.Schedule:
        """Learning rate by step."""
        settings, peak, steps = self.config.schedule, self.config.optimizer.learning_rate, self.total_steps
        warmup = round(settings.warmup * steps)
        if settings.kind == "cosine":
            return cosine_schedule(peak, steps, warmup=warmup)
        if settings.kind == "step":
            milestones = [round(milestone * steps) for milestone in settings.milestones]
            return step_schedule(peak, milestones, factor=settings.factor, warmup=warmup)
        return constant_schedule(peak, warmup=warmup)

    def optimizer(self, frozen: Callable[[Any], Any] | None = None) -> optax.GradientTransformation:
        """The optimizer with its schedule; `frozen` is that of `attnjax.training.sgd`."""
        settings, rate = self.config.optimizer, self.schedule()
        common: dict[str, Any] = {
            "weight_decay": settings.weight_decay,
            "decay_norm_and_bias": settings.decay_norm_and_bias,
            "clip_norm": settings.clip_norm,
            "frozen": frozen,
            "rate_factors": {settings.scaled_module: settings.scaled_by} if settings.scaled_module else None,
        }
        if settings.kind == "sgd":
            return sgd(rate, settings.momentum, nesterov=settings.nesterov, **common)
        kind = adamw if settings.kind == "adamw" else lamb
        return kind(rate, settings.momentum, settings.second_moment, **common)


def make_layout(config: Config, devices: Sequence[jax.Device] | None = None) -> Layout:
    """The sharding of a run's arrays, on the given devices or those of all processes.

    Raises:
      UserError: the batch or the parameters cannot be divided among the devices.
    """
    n, parts = len(devices or jax.devices()), config.parallel.accumulate
    shards, size = config.parallel.shard_parameters, config.data.batch_size
    if size % (n * parts):
        among = f"{n} devices" + (f" in {parts} parts" if parts > 1 else "")
        near = max(1, size // (n * parts)) * n * parts
        raise UserError(f"data.batch_size={size} cannot be divided evenly among {among}: use {near}")
    if n % shards:
        raise UserError(f"parallel.shard_parameters={shards} does not divide the {n} devices")
    images = size // (n * parts)
    if (config.data.mixup or config.data.cutmix) and images % 2:
        raise UserError(
            f"data.mixup and data.cutmix mix neighbouring images: the number on each device, {images}, must be even"
        )
    return Layout.create(devices, shards)


def norm_images(config: Config, num_devices: int) -> int:
    """Number of images per batch-norm statistic, from `parallel.batch_norm`."""
    images, asked = config.data.batch_size // config.parallel.accumulate, config.parallel.batch_norm
    if asked == "global":
        return images
    return images // num_devices if asked == "device" else asked


def norm_options(config: Config, num_devices: int) -> dict[str, Any]:
    """Arguments of BatchNorm for `parallel.batch_norm`.

    Raises:
      UserError: the images are not divisible into such groups.
    """
    parallel = config.parallel
    images = config.data.batch_size // parallel.accumulate
    on_device = images // num_devices
    together = norm_images(config, num_devices)
    if parallel.engine == "pmap" and together == images:
        return {"axis_name": PMAP_AXIS}
    whole, where = (on_device, "of a device") if parallel.engine == "pmap" else (images, "of a batch")
    if whole % together:
        where += " part" if parallel.accumulate > 1 else ""
        instead = "or parallel.engine='jit'" if parallel.engine == "pmap" else "or 'global'"
        raise UserError(
            f"parallel.batch_norm={together} does not divide the {whole} images {where}: use a divisor, {instead}"
        )
    return {"groups": whole // together}
