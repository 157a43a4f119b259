"""GGAM's loss, which guides channel attention by Grad-CAM weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from attnjax._choice import check_choice
from attnjax.layers import at_least_float32
from attnjax.losses._cross_entropy import (
    check_smoothing,
    class_shares,
    classification_sums,
    cross_entropy,
    masked_mean,
)
from attnjax.training import Aux, mask_of

_CHOICES = {
    "beta_norm": ("sigmoid", "sigmoid_l1", "softmax"),
    "kl": ("symmetric", "forward"),
    "target": ("label", "prediction"),
    "wrt": ("A", "D"),
    "reduction": ("mean", "sum"),
    "statistics": ("running", "batch"),
}


def guidance_loss(
    channel_weights: jax.Array,
    cam_weights: jax.Array,
    *,
    kl: Literal["symmetric", "forward"] = "symmetric",
    epsilon: float = 1e-8,
) -> jax.Array:
    """Divergence of the channel weights S of each image from its Grad-CAM weights W.

    L = (KL(S || W) + KL(W || S)) / 2, or KL(S || W), with KL(p || q) = sum over c of p_c (log p_c - log q_c).

    Args:
      channel_weights: S, (b, c), at least 0.
      cam_weights: W, (b, c), at least 0.
      kl: mean of both directions (paper), or the forward direction (released script).
      epsilon: lower bound of the arguments of logarithms.

    Returns:
      (b,), in the dtype of `channel_weights`. The symmetric form is never negative, whatever the sums of S and W.

    Raises:
      ValueError: `kl` is unknown or `epsilon` not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> from attnjax.losses import guidance_loss
      >>> s, w = jnp.array([[0.25, 0.75]]), jnp.array([[0.5, 0.5]])
      >>> [round(float(guidance_loss(s, w, kl=kl)[0]), 4) for kl in ("symmetric", "forward")]
      [0.1373, 0.1308]

    References:
      Xu et al., "Grad-CAM Guided Channel-spatial Attention Module for Fine-grained Visual Classification", 2021.
    """
    check_choice("kl", kl, _CHOICES["kl"])
    _check_epsilon(epsilon)
    ratio = jnp.log(jnp.maximum(channel_weights, epsilon)) - jnp.log(jnp.maximum(cam_weights, epsilon))
    if kl == "forward":
        return jnp.sum(channel_weights * ratio, axis=-1)
    return jnp.sum((channel_weights - cam_weights) * ratio, axis=-1) / 2


class GGAMTerms(NamedTuple):
    """Terms and intermediate results of `ggam_loss`.

    Attributes:
      logits: (b, n).
      cross_entropy: cross-entropy of each image, (b,).
      guidance: L_GGAM of each image, unweighted, (b,).
      channel_weights: S, (b, c).
      cam_gradient: beta, (b, c).
      cam_weights: W, beta normalised by `beta_norm`, (b, c).
      updates: `batch_stats` after the forward pass, as returned by `apply`.

    Example:
      >>> from attnjax.losses import GGAMTerms
      >>> GGAMTerms._fields[:3]
      ('logits', 'cross_entropy', 'guidance')
    """

    logits: jax.Array
    cross_entropy: jax.Array
    guidance: jax.Array
    channel_weights: jax.Array
    cam_gradient: jax.Array
    cam_weights: jax.Array
    updates: dict[str, Any]


def ggam_loss(
    model: nn.Module,
    variables: Mapping[str, Any],
    images: jax.Array,
    labels: jax.Array,
    *,
    train: bool,
    weight: float = 1.0,
    beta_norm: Literal["sigmoid", "sigmoid_l1", "softmax"] = "sigmoid",
    kl: Literal["symmetric", "forward"] = "symmetric",
    target: Literal["label", "prediction"] = "label",
    wrt: Literal["A", "D"] = "A",
    stop_gradient: bool = True,
    reduction: Literal["mean", "sum"] = "mean",
    statistics: Literal["running", "batch"] = "running",
    smoothing: float = 0.0,
    epsilon: float = 1e-8,
    rngs: dict[str, jax.Array] | None = None,
) -> tuple[jax.Array, GGAMTerms]:
    """Cross-entropy plus the divergence of the attention's channel weights from the Grad-CAM weights.

    mean over b of CE + weight mean over b of L_GGAM(S, norm(beta)), beta_c = mean over h, w of d y / d A_c, where y is
    the logit of the image's class; see `guidance_loss`. The defaults are the paper's form.

    Args:
      model: a net with the methods `features`, `attend` and `head` of `GGAMNet`, whose attention, a submodule of that
        name, sows S as `ChannelSpatialAttention` does.
      variables: its `params` and `batch_stats`.
      images: (b, h, w, c), floating.
      labels: class indices, integers (b,), or class probabilities, floating (b, n), as from `Mixup`; then y is the
        weighted sum of the logits.
      train: whether batch norm uses batch statistics in the forward pass that gives logits, A, D and S.
      weight: lambda.
      beta_norm: sigmoid(beta), whose sum over c is not 1 (paper); divided by that sum; or the softmax over c (script).
      kl: see `guidance_loss`.
      target: y is the logit of the label (paper), or the highest one (script).
      wrt: the gradient is that with respect to the attention's input A (paper) or output D (script).
      stop_gradient: whether beta is a constant. Otherwise the loss's gradient has second derivatives of the net.
      reduction: reduction of L_GGAM over the batch; the script uses the sum. Cross-entropy is always a mean.
      statistics: batch-norm statistics in y. With running statistics, beta of an image depends on no other image; the
        script uses batch statistics, which mix the gradients of the images.
      smoothing: see `cross_entropy`.
      epsilon: see `guidance_loss`.
      rngs: PRNG keys of the forward pass, such as `dropout`.

    Returns:
      The loss, (), and its terms.

    Raises:
      ValueError: the model has no such attention, or an argument is not one of those allowed.

    Example:
      >>> import attnjax, jax, jax.numpy as jnp
      >>> from attnjax.losses import ggam_loss
      >>> model = attnjax.create_model("ggam_resnet20_cifar", num_classes=10)
      >>> variables = attnjax.init(model, jax.random.key(0), (1, 8, 8, 3))
      >>> batch = jax.random.normal(jax.random.key(1), (4, 8, 8, 3)), jnp.arange(4)
      >>> loss, terms = ggam_loss(model, variables, *batch, train=True, beta_norm="softmax")
      >>> terms.cam_weights.shape, bool(jnp.isclose(loss, (terms.cross_entropy + terms.guidance).mean()))
      ((4, 64), True)

    References:
      Xu et al., "Grad-CAM Guided Channel-spatial Attention Module for Fine-grained Visual Classification", 2021;
      official code, PRIS-CV/CAM-Guided-Attention, `cars_sp_CAM.py`.

    Notes:
      With "sigmoid", W sums to about c / 2, not to 1: the symmetric loss is still not negative, but its minimum is far
      from 0, and its gradient is about c / 2 times as large as with "sigmoid_l1". beta is a mean over h and w and
      mostly small, so that W is nearly the same for all channels. The script also adds the gradient of the highest
      logits, which it forgets to clear; this implementation does not.
    """
    given = {"target": target, "wrt": wrt, "reduction": reduction, "statistics": statistics, "beta_norm": beta_norm}
    for name, value in given.items():
        check_choice(name, value, _CHOICES[name])
    maps, logits, channel_weights, updates = _forward(model, variables, images, train, rngs)
    chosen = class_shares(labels, logits) if target == "label" else None
    options: Any = {"wrt": wrt, "train": statistics == "batch", "stop_gradient": stop_gradient}
    beta = _cam_gradient(model, variables, maps[wrt], chosen, **options)
    cam_weights = _normalized(beta, beta_norm)
    guidance = guidance_loss(channel_weights, cam_weights, kl=kl, epsilon=epsilon)
    entropy = cross_entropy(logits, labels, smoothing)
    reduce = jnp.mean if reduction == "mean" else jnp.sum
    terms = GGAMTerms(logits, entropy, guidance, channel_weights, beta, cam_weights, updates)
    return entropy.mean() + weight * reduce(guidance), terms


@dataclasses.dataclass(frozen=True)
class GGAM:
    """GGAM's loss as a `Loss`: cross-entropy plus the divergence of the channel weights from the Grad-CAM weights.

    The mean over the images of its batch, see `ggam_loss`; images where `mask` is False do not count. In training, a
    `target` of class probabilities (b, n) takes precedence over `label`, class indices (b,).

    Sums: `loss`, `correct`, `count` and `kl`, the unweighted guidance loss. In evaluation, `loss` is the cross-entropy
    alone, without smoothing, and y has running statistics, so that no image depends on another. Evaluation adds
    `correlation`, the Pearson correlation of S and W over the channels (0 if one of them is constant), and `top5` and
    `confusion`, see `CrossEntropy`.

    Args:
      weight: the factor lambda of the guidance loss.
      batch_size: size of the whole batch, required by `reduction="sum"`, since the loss may see only a part of it.
      beta_norm, kl, target, wrt, stop_gradient, reduction, statistics, smoothing, epsilon: see `ggam_loss`.

    Raises:
      ValueError: an argument is not one of those allowed, or `reduction` is "sum" without a `batch_size`; when called,
        see `ggam_loss`.

    Example:
      >>> import jax, jax.numpy as jnp, attnjax
      >>> from attnjax.losses import GGAM
      >>> model = attnjax.create_model("ggam_resnet20_cifar", num_classes=10)
      >>> variables = attnjax.init(model, jax.random.key(0), (1, 8, 8, 3))
      >>> batch = {"image": jnp.zeros((4, 8, 8, 3)), "label": jnp.arange(4)}
      >>> loss, aux = GGAM(weight=2.0, beta_norm="softmax")(model, variables, batch, train=True)
      >>> sorted(aux.sums), aux.outputs.shape
      (['correct', 'count', 'kl', 'loss'], (4, 10))

    References:
      Xu et al., "Grad-CAM Guided Channel-spatial Attention Module for Fine-grained Visual Classification", 2021.
    """

    weight: float = 1.0
    beta_norm: Literal["sigmoid", "sigmoid_l1", "softmax"] = "sigmoid"
    kl: Literal["symmetric", "forward"] = "symmetric"
    target: Literal["label", "prediction"] = "label"
    wrt: Literal["A", "D"] = "A"
    stop_gradient: bool = True
    reduction: Literal["mean", "sum"] = "mean"
    statistics: Literal["running", "batch"] = "running"
    smoothing: float = 0.0
    epsilon: float = 1e-8
    batch_size: int | None = None

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            check_choice(name, getattr(self, name), choices)
        check_smoothing(self.smoothing)
        _check_epsilon(self.epsilon)
        if (self.reduction == "sum") != (self.batch_size is not None):
            allowed = "the size of the whole batch" if self.reduction == "sum" else "None"
            raise ValueError(f"batch_size={self.batch_size} must be {allowed} with reduction={self.reduction!r}")

    def __call__(
        self,
        model: Any,
        variables: Mapping[str, Any],
        batch: Mapping[str, jax.Array],
        *,
        train: bool,
        rngs: dict[str, jax.Array] | None = None,
    ) -> tuple[jax.Array, Aux]:
        names = ("beta_norm", "kl", "target", "wrt", "stop_gradient", "statistics", "smoothing", "epsilon")
        options: dict[str, Any] = {name: getattr(self, name) for name in names}
        labels = batch.get("target", batch["label"]) if train else batch["label"]
        if not train:
            options["statistics"] = "running"
        _, terms = ggam_loss(model, variables, batch["image"], labels, train=train, rngs=rngs, **options)
        if not train:
            losses, mask = cross_entropy(terms.logits, batch["label"]), mask_of(batch)
            sums = classification_sums(terms.logits, losses, batch, train=False)
            sums["kl"] = jnp.where(mask, terms.guidance, 0).sum()
            sums["correlation"] = jnp.where(mask, _correlation(terms.channel_weights, terms.cam_weights), 0).sum()
            return masked_mean(losses, batch.get("mask")), Aux(terms.logits, {}, sums)
        # A part of a batch takes its share of the sum over the whole.
        weight = self.weight if self.batch_size is None else self.weight * self.batch_size
        sums = classification_sums(terms.logits, terms.cross_entropy + weight * terms.guidance, batch, train=True)
        sums["kl"] = jnp.where(mask_of(batch), terms.guidance, 0).sum()
        kept = batch.get("mask")
        loss = masked_mean(terms.cross_entropy, kept) + weight * masked_mean(terms.guidance, kept)
        return loss, Aux(terms.logits, terms.updates, sums)


def _check_epsilon(epsilon: float) -> None:
    if epsilon <= 0:
        raise ValueError(f"epsilon={epsilon} must be positive")


def _correlation(s: jax.Array, w: jax.Array) -> jax.Array:
    """Pearson correlation over the last axis; 0 for constants."""
    s, w = (x - x.mean(-1, keepdims=True) for x in (s, w))
    spread = jnp.linalg.norm(s, axis=-1) * jnp.linalg.norm(w, axis=-1)
    return jnp.sum(s * w, -1) / jnp.where(spread > 0, spread, 1)


def _forward(
    model: nn.Module,
    variables: Mapping[str, Any],
    images: jax.Array,
    train: bool,
    rngs: dict[str, jax.Array] | None,
) -> tuple[dict[str, jax.Array], jax.Array, jax.Array, dict[str, Any]]:
    """A and D, the logits, S, and the new batch statistics."""
    if lacking := [name for name in ("features", "attend", "head") if not hasattr(model, name)]:
        raise ValueError(f"model={type(model).__name__} has no method {', '.join(lacking)}: use a GGAMNet")
    attention = getattr(model, "attention", None)
    wanted = f"model.attention={attention} sows no channel_weights: use ChannelSpatialAttention"
    if attention is None:
        raise ValueError(wanted)

    def run(net: Any, x: jax.Array) -> tuple[dict[str, jax.Array], jax.Array]:
        maps = net.features(x, train=train)
        before, after = list(maps.values())[-2:]
        return {"A": before, "D": after}, net.head(after, train=train)

    passed: Any = model.apply(variables, images, method=run, mutable=["batch_stats", "intermediates"], rngs=rngs)
    (maps, logits), updates = passed
    seen = updates.pop("intermediates", {}).get("attention", {})
    if "channel_weights" not in seen:
        raise ValueError(wanted)
    return maps, logits, seen["channel_weights"][-1], updates


def _cam_gradient(
    model: nn.Module,
    variables: Mapping[str, Any],
    x: jax.Array,
    chosen: jax.Array | None,
    *,
    wrt: str,
    train: bool,
    stop_gradient: bool,
) -> jax.Array:
    """beta, (b, c), at x, which is A or D. If y mixes no images, the gradient of their sum is that of each."""
    if stop_gradient:
        variables, x = jax.lax.stop_gradient((dict(variables), x))

    def run(net: Any, x: jax.Array) -> jax.Array:
        return net.head(net.attend(x, train=train) if wrt == "A" else x, train=train)

    def score(x: jax.Array) -> jax.Array:
        logits, _ = model.apply(variables, x, method=run, mutable=["batch_stats"])
        return jnp.sum(logits.max(-1) if chosen is None else chosen * logits)

    gradient = jax.grad(score)(x)
    return jnp.mean(gradient.astype(at_least_float32(gradient.dtype)), axis=(-3, -2))


def _normalized(beta: jax.Array, beta_norm: str) -> jax.Array:
    """W, the normalised beta."""
    if beta_norm == "softmax":
        return jax.nn.softmax(beta, axis=-1)
    squashed = jax.nn.sigmoid(beta)
    return squashed if beta_norm == "sigmoid" else squashed / jnp.sum(squashed, axis=-1, keepdims=True)
