"""Cross-entropy with label smoothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from attnjax.layers import at_least_float32
from attnjax.training import Aux, mask_of


def cross_entropy(logits: jax.Array, labels: jax.Array, smoothing: float = 0.0) -> jax.Array:
    """Cross-entropy of each example with smoothed targets.

    -sum over k of t_k log softmax(logits)_k, with t = (1 - smoothing) y + smoothing / n.

    Args:
      logits: (b, n), floating.
      labels: y, class indices, integers (b,), or class probabilities, floating (b, n).
      smoothing: share of the target that is spread evenly over all classes.

    Returns:
      (b,), float32 or wider; NaN where a class index is negative or not below n.

    Raises:
      ValueError: `labels` is neither, or `smoothing` is not at least 0 and below 1.

    Example:
      >>> import jax.numpy as jnp
      >>> from attnjax.losses import cross_entropy
      >>> logits = jnp.log(jnp.array([[0.7, 0.2, 0.1]]))
      >>> [round(float(cross_entropy(logits, jnp.array([0]), s)[0]), 4) for s in (0.0, 0.3)]
      [0.3567, 0.6765]

    References:
      Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", CVPR 2016.
    """
    check_smoothing(smoothing)
    logits = logits.astype(at_least_float32(logits.dtype))
    targets = (1 - smoothing) * class_shares(labels, logits) + smoothing / logits.shape[-1]
    losses = -jnp.sum(targets * jax.nn.log_softmax(logits), axis=-1)
    if labels.ndim < logits.ndim:
        return jnp.where((labels >= 0) & (labels < logits.shape[-1]), losses, jnp.nan)
    return losses


@dataclasses.dataclass(frozen=True)
class CrossEntropy:
    """Cross-entropy of a classifier as a `Loss`.

    The mean over the images of its batch; images where `mask` is False are ignored. In training, a `target` of class
    probabilities (b, n) takes precedence over `label`, class indices (b,); evaluation uses `label`, without smoothing.

    Sums: `loss`; `correct`, images whose label has the highest logit; `count`, images. Evaluation adds `top5`, images
    whose label is among the five highest logits, and `confusion`, int32 (n, n), images by label and prediction.

    Args:
      smoothing: in training, the share of the target that is spread evenly over all classes.

    Raises:
      ValueError: `smoothing` is not at least 0 and below 1.

    Example:
      >>> import jax, jax.numpy as jnp, attnjax
      >>> from attnjax.losses import CrossEntropy
      >>> model = attnjax.create_model("resnet20_cifar", num_classes=10)
      >>> variables = attnjax.init(model, jax.random.key(0), (1, 8, 8, 3))
      >>> batch = {"image": jnp.zeros((4, 8, 8, 3)), "label": jnp.arange(4), "mask": jnp.array([1, 1, 1, 0], bool)}
      >>> loss, aux = CrossEntropy()(model, variables, batch, train=False)
      >>> aux.sums["count"].item(), bool(jnp.isclose(loss, aux.sums["loss"] / 3)), aux.sums["confusion"].shape
      (3, True, (10, 10))
    """

    smoothing: float = 0.0

    def __post_init__(self) -> None:
        check_smoothing(self.smoothing)

    def __call__(
        self,
        model: nn.Module,
        variables: Mapping[str, Any],
        batch: Mapping[str, jax.Array],
        *,
        train: bool,
        rngs: dict[str, jax.Array] | None = None,
    ) -> tuple[jax.Array, Aux]:
        passed: Any = model.apply(
            variables, batch["image"], train=train, mutable=["batch_stats"] if train else [], rngs=rngs
        )
        logits, updates = passed
        if train:
            losses = cross_entropy(logits, batch.get("target", batch["label"]), self.smoothing)
        else:
            losses = cross_entropy(logits, batch["label"])
        sums = classification_sums(logits, losses, batch, train=train)
        return masked_mean(losses, batch.get("mask")), Aux(logits, updates, sums)


def classification_sums(
    logits: jax.Array, losses: jax.Array, batch: Mapping[str, jax.Array], *, train: bool
) -> dict[str, jax.Array]:
    """The sums of a classifier over the images of a batch that are not masked out, see `CrossEntropy`.

    Args:
      logits: (b, n), floating.
      losses: the loss of each image, (b,), floating.
      batch: `label`, integers (b,), and optionally `mask`, bool (b,).
      train: whether to omit `top5` and `confusion`.

    Returns:
      Sums by name: `loss`, `correct`, `count` and, in evaluation, `top5` and `confusion`.

    Raises:
      ValueError: `label` or `mask` has another shape or dtype.

    Example:
      >>> import jax.numpy as jnp
      >>> from attnjax.losses import classification_sums
      >>> batch, losses = {"label": jnp.array([0, 1])}, jnp.array([0.3, 1.3])
      >>> sums = classification_sums(jnp.array([[2.0, 1.0], [2.0, 1.0]]), losses, batch, train=False)
      >>> sums["correct"].item(), sums["confusion"].tolist()
      (1, [[1, 0], [1, 0]])
    """
    labels, mask = batch["label"], mask_of(batch)
    if labels.shape != logits.shape[:1] or not jnp.issubdtype(labels.dtype, jnp.integer):
        found = f"{labels.dtype}{list(labels.shape)}"
        raise ValueError(f"label is {found}, but must be integers [{len(logits)}]; class probabilities go in target")
    correct = logits.argmax(-1).astype(labels.dtype) == labels
    sums = {
        "loss": jnp.where(mask, losses, 0).sum(),
        "correct": (correct & mask).sum(dtype=jnp.int32),
        "count": mask.sum(dtype=jnp.int32),
    }
    if train:
        return sums
    _, predictions = jax.lax.top_k(logits, min(5, logits.shape[-1]))
    top5 = (predictions == labels[:, None]).any(-1)
    confusion = jnp.zeros((logits.shape[-1],) * 2, jnp.int32)
    return sums | {
        "top5": (top5 & mask).sum(dtype=jnp.int32),
        "confusion": confusion.at[labels, logits.argmax(-1)].add(mask.astype(jnp.int32)),
    }


def masked_mean(values: jax.Array, mask: jax.Array | None) -> jax.Array:
    """The mean over the images of a batch that are not masked out.

    Args:
      values: (b,), floating.
      mask: bool (b,), or None for all.

    Example:
      >>> import jax.numpy as jnp
      >>> from attnjax.losses import masked_mean
      >>> masked_mean(jnp.array([1.0, 2.0, 9.0]), jnp.array([True, True, False])).item()
      1.5
    """
    if mask is None:
        return values.mean()
    return jnp.where(mask, values, 0).sum() / jnp.maximum(mask.sum(), 1).astype(values.dtype)


def check_smoothing(smoothing: float) -> None:
    """Raises ValueError unless a label smoothing is at least 0 and below 1."""
    if not 0 <= smoothing < 1:
        raise ValueError(f"smoothing={smoothing} must be at least 0 and below 1")


def class_shares(labels: jax.Array, logits: jax.Array) -> jax.Array:
    """Class probabilities, (b, n), in the dtype of the logits."""
    if labels.shape == logits.shape and jnp.issubdtype(labels.dtype, jnp.floating):
        return labels.astype(logits.dtype)
    if labels.shape == logits.shape[:-1] and jnp.issubdtype(labels.dtype, jnp.integer):
        return jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    raise ValueError(
        f"labels are {labels.dtype}{list(labels.shape)}, but must be integers {list(logits.shape[:-1])} or floating "
        f"{list(logits.shape)}"
    )
