"""The pure steps of training and evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from train.config import Config, DataConfig
from train.metrics import Metrics, cross_entropy
from train.state import TrainState, Variables


def normalize(config: DataConfig, images: jax.Array) -> jax.Array:
    """uint8 (b, h, w, c) -> float32: (image / 255 - mean) / std."""
    mean, std = (jnp.asarray(v, jnp.float32).reshape(1, 1, 1, -1) for v in (config.mean, config.std))
    return (images.astype(jnp.float32) / 255 - mean) / std


def train_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    config: Config,
    state: TrainState,
    metrics: Metrics,
    batch: Mapping[str, jax.Array],
) -> tuple[TrainState, Metrics]:
    """One step of the optimiser on the mean loss of a batch; adds the batch to the metrics."""
    images = normalize(config.data, batch["image"])
    rngs = {"dropout": jax.random.fold_in(jax.random.key(config.seed), state.step)}

    def loss_fn(params: Any) -> tuple[jax.Array, tuple[jax.Array, Any]]:
        variables = {**state.variables, "params": params}
        applied: Any = model.apply(variables, images, train=True, mutable=["batch_stats"], rngs=rngs)
        logits, updates = applied
        losses = cross_entropy(logits, batch["label"], config.label_smoothing)
        return losses.mean(), (logits, updates)

    params = state.variables["params"]
    (loss, (logits, updates)), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
    steps, opt_state = optimizer.update(grads, state.opt_state, params)
    variables = {**updates, "params": optax.apply_updates(params, steps)}
    ema = state.ema
    if config.ema_decay is not None:
        ema = optax.incremental_update(variables, ema, 1 - config.ema_decay)

    size = len(batch["label"])
    finite = jnp.isfinite(loss) & jnp.isfinite(optax.tree.norm(grads)) & jnp.isfinite(optax.tree.norm(variables))
    first_bad = jnp.where((metrics.bad_step < 0) & ~finite, state.step, metrics.bad_step)
    metrics = Metrics(
        loss=metrics.loss + loss * size,
        correct=metrics.correct + _correct(logits, batch["label"]).sum(dtype=jnp.int32),
        count=metrics.count + size,
        bad_step=first_bad,
    )
    return TrainState(state.step + 1, variables, opt_state, ema), metrics


def eval_step(
    model: nn.Module,
    config: Config,
    variables: Variables,
    metrics: Metrics,
    confusion: jax.Array,
    batch: Mapping[str, jax.Array],
) -> tuple[Metrics, jax.Array]:
    """Adds the unmasked examples to the metrics and to the confusion matrix, int32 (true class, answer)."""
    logits: Any = model.apply(variables, normalize(config.data, batch["image"]), train=False)
    mask, labels = batch["mask"], batch["label"]
    metrics = metrics.replace(
        loss=metrics.loss + jnp.where(mask, cross_entropy(logits, labels), 0).sum(),
        correct=metrics.correct + (_correct(logits, labels) & mask).sum(dtype=jnp.int32),
        count=metrics.count + mask.sum(dtype=jnp.int32),
    )
    return metrics, confusion.at[labels, logits.argmax(-1)].add(mask.astype(jnp.int32))


def _correct(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return logits.argmax(-1).astype(labels.dtype) == labels
