"""The definition of a run."""

from __future__ import annotations

import dataclasses
from typing import Any

import optax

from attnjax.training import adamw, constant_schedule, cosine_schedule, lamb, sgd, step_schedule
from train.config import Config


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

    def optimizer(self) -> optax.GradientTransformation:
        """The optimizer with its schedule."""
        settings, rate = self.config.optimizer, self.schedule()
        common: dict[str, Any] = {
            "weight_decay": settings.weight_decay,
            "decay_norm_and_bias": settings.decay_norm_and_bias,
            "clip_norm": settings.clip_norm,
            "rate_factors": {settings.scaled_module: settings.scaled_by} if settings.scaled_module else None,
        }
        if settings.kind == "sgd":
            return sgd(rate, settings.momentum, nesterov=settings.nesterov, **common)
        kind = adamw if settings.kind == "adamw" else lamb
        return kind(rate, settings.momentum, settings.second_moment, **common)
