"""The pure steps of training and evaluation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from attnjax.losses import GGAMTerms, cross_entropy, ggam_loss
from attnjax.models import GGAMNet
from train.config import Config, DataConfig
from train.metrics import GuidedMetrics, Metrics
from train.mix import mix
from train.state import TrainState, Variables

_KEPT = {"block": ("block", "stage"), "stage": ("stage",)}
"""What rematerialisation keeps: the outputs that nets mark with these names."""


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
    *,
    axis_name: str | None = None,
    gather: Callable[[Any], Any] = lambda params: params,
    seed: int | jax.Array | None = None,
) -> tuple[TrainState, Metrics]:
    """One step of the optimiser on the mean loss of a batch; adds the batch to the metrics.

    Args:
      model, optimizer, config: what is trained, and how.
      state, metrics, batch: as they are before the step.
      axis_name: the `pmap` axis over which the batch goes on; None where the batch is whole, as under `jit`.
      gather: brings parameters that lie in parts on several devices together where they are used.
      seed: of the random numbers, uint32 () where it is an array; None takes that of the settings.
    """
    key = jax.random.key(config.seed if seed is None else seed)
    mixing, dropping = jax.random.split(jax.random.fold_in(key, state.step))
    if axis_name is not None:
        dropping = jax.random.fold_in(dropping, jax.lax.axis_index(axis_name))
    keys = {"mix": mixing, "dropout": dropping}

    params = state.variables["params"]
    batch_stats = {name: value for name, value in state.variables.items() if name != "params"}
    loss_fn = partial(_loss, model, config, gather)
    loss, sums, batch_stats, grads = _gradients(loss_fn, config.parallel.accumulate, params, batch_stats, batch, keys)
    size = len(batch["label"])
    if axis_name is not None:
        loss, batch_stats, grads = jax.lax.pmean((loss, batch_stats, grads), axis_name)
        sums, size = jax.lax.psum(sums, axis_name), size * jax.lax.axis_size(axis_name)
    right, kl = sums

    steps, opt_state = optimizer.update(grads, state.opt_state, params)
    variables = {**batch_stats, "params": optax.apply_updates(params, steps)}
    ema = state.ema
    if config.ema_decay is not None:
        ema = optax.incremental_update(variables, ema, 1 - config.ema_decay)

    finite = jnp.isfinite(loss) & jnp.isfinite(optax.tree.norm(grads)) & jnp.isfinite(optax.tree.norm(variables))
    metrics = metrics.replace(
        loss=metrics.loss + loss * size,
        correct=metrics.correct + right,
        count=metrics.count + size,
        kl=metrics.kl + kl,
        bad_step=jnp.where((metrics.bad_step < 0) & ~finite, state.step, metrics.bad_step),
    )
    return TrainState(state.step + 1, variables, opt_state, ema), metrics


def _loss(
    model: Any,
    config: Config,
    gather: Callable[[Any], Any],
    params: Any,
    batch_stats: Any,
    batch: Mapping[str, jax.Array],
    keys: Mapping[str, jax.Array],
) -> tuple[jax.Array, tuple[tuple[jax.Array, jax.Array], Any]]:
    """Mean loss of a batch, and besides it right answers and guidance losses, summed, and the new batch statistics."""
    rngs = {"dropout": keys["dropout"]}

    def plain(params: Any, images: jax.Array, shares: jax.Array) -> Any:
        variables = {**batch_stats, "params": gather(params)}
        logits, updates = model.apply(variables, images, train=True, mutable=["batch_stats"], rngs=rngs)
        return cross_entropy(logits, shares, config.label_smoothing).mean(), logits, jnp.zeros(()), updates

    def guided(params: Any, images: jax.Array, shares: jax.Array) -> Any:
        variables = {**batch_stats, "params": gather(params)}
        knobs = dataclasses.asdict(config.ggam) | {"smoothing": config.label_smoothing, "rngs": rngs}
        if config.ggam.reduction == "sum":  # over the whole batch, of which this may be a part
            knobs |= {"reduction": "mean", "weight": config.ggam.weight * config.data.batch_size}
        loss, terms = ggam_loss(model, variables, images, shares, train=True, **knobs)
        return loss, terms.logits, terms.guidance.sum(), terms.updates

    loss_of = guided if config.ggam.weight > 0 else plain
    if config.parallel.rematerialize != "none":
        kept = jax.checkpoint_policies.save_only_these_names(*_KEPT[config.parallel.rematerialize])
        loss_of = jax.checkpoint(loss_of, policy=kept)
    images = normalize(config.data, batch["image"])
    shares = jax.nn.one_hot(batch["label"], model.num_classes, dtype=jnp.float32)
    loss, logits, kl, updates = loss_of(params, *mix(config.data, keys["mix"], images, shares))
    return loss, ((_correct(logits, batch["label"]).sum(dtype=jnp.int32), kl), updates)


def _gradients(
    loss_fn: Callable[..., Any],
    parts: int,
    params: Any,
    batch_stats: Any,
    batch: Mapping[str, jax.Array],
    keys: Mapping[str, jax.Array],
) -> tuple[jax.Array, Any, Any, Any]:
    """Mean loss, sums, new batch statistics and gradients, over the parts of a batch one after the other.

    Each part takes every so-manieth image, so that a batch that is spread over devices stays where it is.
    """
    gradient = jax.value_and_grad(loss_fn, has_aux=True)
    if parts == 1:
        (loss, (sums, batch_stats)), grads = gradient(params, batch_stats, batch, keys)
        return loss, sums, batch_stats, grads

    def add_part(carry: tuple[Any, Any], part: tuple[Any, Any]) -> tuple[tuple[Any, Any], None]:
        batch_stats, totals = carry
        (loss, (sums, batch_stats)), grads = gradient(params, batch_stats, *part)
        return (batch_stats, jax.tree.map(jnp.add, totals, (loss, sums, grads))), None

    split = {name: v.reshape(len(v) // parts, parts, *v.shape[1:]).swapaxes(0, 1) for name, v in batch.items()}
    zeros = (jnp.zeros(()), (jnp.int32(0), jnp.zeros(())), jax.tree.map(jnp.zeros_like, params))
    keys_of_parts = {name: jax.random.split(key, parts) for name, key in keys.items()}
    (batch_stats, totals), _ = jax.lax.scan(add_part, (batch_stats, zeros), (split, keys_of_parts))
    loss, sums, grads = totals
    return loss / parts, sums, batch_stats, jax.tree.map(lambda grad: grad / parts, grads)


def eval_step(
    model: nn.Module,
    config: Config,
    variables: Variables,
    metrics: Metrics,
    confusion: jax.Array,
    batch: Mapping[str, jax.Array],
) -> tuple[Metrics, jax.Array]:
    """Adds the unmasked examples to the metrics and to the confusion matrix, int32 (true class, answer).

    `GuidedMetrics`, for a `GGAMNet` with attention, get the guidance loss and the correlation of S and W, too.
    """
    images = normalize(config.data, batch["image"])
    if not isinstance(metrics, GuidedMetrics):
        logits: Any = model.apply(variables, images, train=False)
        return add_answers(metrics, confusion, batch, logits)
    assert isinstance(model, GGAMNet)
    _, terms = ggam_loss(model, variables, images, batch["label"], train=False, **dataclasses.asdict(config.ggam))
    return add_answers(_add_guidance(metrics, batch["mask"], terms), confusion, batch, terms.logits)


def _add_guidance(metrics: GuidedMetrics, mask: jax.Array, terms: GGAMTerms) -> GuidedMetrics:
    """Adds guidance losses, and Pearson's correlations of S and W over the channels, which are 0 for constants."""
    s, w = (x - x.mean(-1, keepdims=True) for x in (terms.channel_weights, terms.cam_weights))
    spread = jnp.linalg.norm(s, axis=-1) * jnp.linalg.norm(w, axis=-1)
    correlation = jnp.sum(s * w, -1) / jnp.where(spread > 0, spread, 1)
    return metrics.replace(
        kl=metrics.kl + jnp.where(mask, terms.guidance, 0).sum(),
        correlation=metrics.correlation + jnp.where(mask, correlation, 0).sum(),
    )


def add_answers(
    metrics: Metrics, confusion: jax.Array, batch: Mapping[str, jax.Array], logits: jax.Array
) -> tuple[Metrics, jax.Array]:
    """Adds the unmasked examples, by their logits (b, n), to the metrics and to the confusion matrix."""
    mask, labels = batch["mask"], batch["label"]
    metrics = metrics.replace(
        loss=metrics.loss + jnp.where(mask, cross_entropy(logits, labels), 0).sum(),
        correct=metrics.correct + (_correct(logits, labels) & mask).sum(dtype=jnp.int32),
        top5=metrics.top5 + (_among_first(logits, labels, 5) & mask).sum(dtype=jnp.int32),
        count=metrics.count + mask.sum(dtype=jnp.int32),
    )
    return metrics, confusion.at[labels, logits.argmax(-1)].add(mask.astype(jnp.int32))


def _correct(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return logits.argmax(-1).astype(labels.dtype) == labels


def _among_first(logits: jax.Array, labels: jax.Array, count: int) -> jax.Array:
    """Whether the label is among the answers with the highest logits."""
    _, answers = jax.lax.top_k(logits, min(count, logits.shape[-1]))
    return (answers == labels[:, None]).any(-1)
