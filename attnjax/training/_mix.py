"""Mixup and CutMix, on the device."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from attnjax.training._loss import Batch


@dataclasses.dataclass(frozen=True)
class Mixup:
    """Mixes each image with its neighbour, by Mixup, by CutMix, or by either of them at random.

    x = s x1 + (1 - s) x2, with one share s ~ Beta(a, a) for the whole batch. Mixup applies s to every pixel. CutMix
    replaces a box of sqrt(1 - s) of the height and width, the same in every image and clipped at its edges. The targets
    are mixed by the mean share. With both, each batch uses either one with probability 1/2.

    Images are mixed with their neighbours, so that a batch divided among devices, an even number of images on each, is
    mixed without communication. In a batch of odd size, the last image is not mixed.

    Args:
      num_classes: number of classes n.
      mixup: parameter a of Mixup; 0 disables it.
      cutmix: parameter a of CutMix; 0 disables it.

    Called with a key and a batch of `image`, floating (b, h, w, c), and `label`, integers (b,), it returns the batch
    with mixed images and a `target` of class probabilities, float32 (b, n). `label` is unchanged.

    Raises:
      ValueError: a value is negative, or both are 0; when called, images are not floating, or the batch has a `mask`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from attnjax.training import Mixup
      >>> batch = {"image": jnp.zeros((4, 8, 8, 3)), "label": jnp.arange(4)}
      >>> mixed = Mixup(num_classes=10, mixup=0.2, cutmix=1.0)(jax.random.key(0), batch)
      >>> mixed["target"].shape, round(float(mixed["target"].sum()), 4)
      ((4, 10), 4.0)

    References:
      Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018.
      Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features", ICCV 2019.
    """

    num_classes: int
    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        if min(self.mixup, self.cutmix) < 0 or not (self.mixup or self.cutmix):
            raise ValueError(f"mixup={self.mixup}, cutmix={self.cutmix} must be at least 0, and one of them positive")

    def __call__(self, key: jax.Array, batch: Batch) -> Batch:
        images = batch["image"]
        if not jnp.issubdtype(images.dtype, jnp.floating):
            raise ValueError(
                f"image is {images.dtype}, but must be floating: preprocess=Normalize(...) comes before mix"
            )
        if "mask" in batch:
            raise ValueError("mask: a batch whose images do not all count cannot be mixed")
        targets = jax.nn.one_hot(batch["label"], self.num_classes, dtype=jnp.float32)
        kept = self._kept(key, *images.shape[1:3])
        mixed = {"image": _blend(images, kept[None, :, :, None]), "target": _blend(targets, kept.mean()[None, None])}
        return {**batch, **mixed}

    def _kept(self, key: jax.Array, height: int, width: int) -> jax.Array:
        """Share of each pixel that is kept, float32 (h, w) or (1, 1) for all."""
        coin_key, mixup_key, cutmix_key = jax.random.split(key, 3)
        if not self.cutmix:
            return _mixup(mixup_key, self.mixup)
        if not self.mixup:
            return _cutmix(cutmix_key, self.cutmix, height, width)
        both = _mixup(mixup_key, self.mixup), _cutmix(cutmix_key, self.cutmix, height, width)
        return jnp.where(jax.random.bernoulli(coin_key), *both)


def _mixup(key: jax.Array, alpha: float) -> jax.Array:
    return jax.random.beta(key, alpha, alpha, (1, 1), jnp.float32)


def _cutmix(key: jax.Array, alpha: float, height: int, width: int) -> jax.Array:
    """0 inside the box, 1 outside."""
    share_key, centre_key = jax.random.split(key)
    side = jnp.sqrt(1 - jax.random.beta(share_key, alpha, alpha, dtype=jnp.float32))
    centre = jax.random.uniform(centre_key, (2,), jnp.float32)
    rows, columns = (
        jnp.abs((jnp.arange(length, dtype=jnp.float32) + 0.5) / length - middle) < side / 2
        for length, middle in zip((height, width), centre, strict=True)
    )
    return 1 - jnp.outer(rows, columns).astype(jnp.float32)


def _blend(batch: jax.Array, kept: jax.Array) -> jax.Array:
    kept = kept.astype(batch.dtype)
    return kept * batch + (1 - kept) * _neighbours(batch)


def _neighbours(batch: jax.Array) -> jax.Array:
    """Swaps the first and second, the third and fourth images, and so on."""
    even = len(batch) // 2 * 2
    swapped = batch[:even].reshape(even // 2, 2, *batch.shape[1:])[:, ::-1].reshape(even, *batch.shape[1:])
    return jnp.concatenate([swapped, batch[even:]])
