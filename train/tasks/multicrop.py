"""Multi-crop, multi-scale evaluation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from attnjax.losses import classification_sums, cross_entropy, masked_mean
from attnjax.training import Aux
from train.config import DataConfig
from train.config.errors import UserError
from train.data import Batch, Reader, evaluation_batches, evaluation_transform
from train.data.augment import squeezes
from train.data.images import centre_offset, cover, resize

Crops = Literal["center", "ten"]


@dataclasses.dataclass(frozen=True)
class Multicrop:
    """Crops and scales of each test image over which the net's probabilities are averaged.

    Attributes:
      crops: `center`, or `ten`: the four corners and the centre, and their mirror images.
      scales: for each scale, the side of the crops and the side to which the image is resized first.
    """

    crops: Crops
    scales: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, reader: Reader, crops: Crops, sizes: Sequence[int], sides: Sequence[int]) -> Multicrop:
        """Takes missing sizes from the settings of a run.

        Args:
          reader: the test images as the run reads them.
          crops: see `Multicrop`.
          sizes: sides of the crops; empty uses the run's.
          sides: sides to which the image is resized first, one for each size or one for all; empty keeps the run's
            ratio to the crop.

        Raises:
          UserError: the numbers of `sizes` and `sides` do not match.
        """
        height, width, _ = reader.image_shape
        if not sizes and height != width:
            raise UserError(f"the run's images are {height}x{width}: give the side of square crops as --sizes")
        sizes, config = tuple(sizes) or (height,), reader.config
        if not sides:
            sides = [round(size * (config.resize or height) / height) for size in sizes]
        count = max(len(sizes), len(sides))
        if len(sides) not in (1, count) or len(sizes) not in (1, count):
            raise UserError(f"--resize takes one value, or one for each of {len(sizes)} --sizes: got {len(sides)}")
        scales = [tuple(values) * (count // len(values)) for values in (sizes, sides)]
        return cls(crops, tuple(zip(*scales, strict=True)))

    def check(self, model: nn.Module, variables: Mapping[str, Any], reader: Reader) -> None:
        """Raises UserError if the net does not accept images of one of the sizes."""
        for one in self.readers(reader):
            image = jax.ShapeDtypeStruct((1, *one.image_shape), jnp.float32)
            try:
                jax.eval_shape(partial(model.apply, train=False), variables, image)
            except ValueError as error:
                size, reason = one.image_shape[0], str(error).partition("\n")[0]
                raise UserError(f"the net does not take images of {size}x{size} pixels: {reason}") from error

    def readers(self, reader: Reader) -> list[Reader]:
        """A reader for each scale."""
        channels = reader.image_shape[-1]
        return [
            dataclasses.replace(
                reader,
                config=dataclasses.replace(reader.config, image_size=size, resize=side),
                image_shape=(size, size, channels),
            )
            for size, side in self.scales
        ]

    def batches(self, reader: Reader, process: tuple[int, int] = (0, 1)) -> Iterator[Batch]:
        """Like `evaluation_batches`, with `image0`, `image1`, ... (b, v, h, w, c), the v crops at each scale."""
        cut = _ten_crops if self.crops == "ten" else _one_crop
        parts = [evaluation_batches(one, process, cut) for one in self.readers(reader)]
        for scales in zip(*parts, strict=True):
            images = {f"image{number}": batch["image"] for number, batch in enumerate(scales)}
            yield {"label": scales[0]["label"], "mask": scales[0]["mask"], **images}


def _one_crop(config: DataConfig, image: np.ndarray) -> np.ndarray:
    return evaluation_transform(config, image)[None]


def _ten_crops(config: DataConfig, image: np.ndarray) -> np.ndarray:
    """The corners and the centre, then their mirror images, (10, h, w, c)."""
    assert config.image_size is not None
    assert config.resize is not None
    size, change = config.image_size, resize if squeezes(config) else cover
    resized = change(image, config.resize, config.resize)
    bottom, right = (length - size for length in resized.shape[:2])
    middle = (centre_offset(bottom, 0), centre_offset(right, 0))
    corners = [(0, 0), (0, right), (bottom, 0), (bottom, right), middle]
    crops = np.stack([resized[top : top + size, left : left + size] for top, left in corners])
    return np.concatenate([crops, crops[:, :, ::-1]])


@dataclasses.dataclass(frozen=True)
class MulticropLoss:
    """Cross-entropy of the net's mean probabilities over all crops of each image of `Multicrop.batches`.

    Args:
      preprocess: turns the crops into the net's input.
    """

    preprocess: Callable[[jax.Array], jax.Array]

    def __call__(
        self,
        model: nn.Module,
        variables: Mapping[str, Any],
        batch: Mapping[str, jax.Array],
        *,
        train: bool,
        rngs: dict[str, jax.Array] | None = None,
    ) -> tuple[jax.Array, Aux]:
        def log_probabilities(images: jax.Array) -> jax.Array:
            flat = images.reshape(-1, *images.shape[2:])
            logits: Any = model.apply(variables, self.preprocess(flat), train=False)
            return jax.nn.log_softmax(logits).reshape(*images.shape[:2], -1)

        predictions = [log_probabilities(images) for name, images in batch.items() if name.startswith("image")]
        together = jnp.concatenate(predictions, axis=1)
        logits = jax.nn.logsumexp(together, axis=1)  # of the sum over the crops: the losses normalise it
        losses = cross_entropy(logits, batch["label"])
        sums = classification_sums(logits, losses, batch, train=False)
        return masked_mean(losses, batch.get("mask")), Aux(logits, {}, sums)
