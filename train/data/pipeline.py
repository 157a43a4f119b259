"""From a split to batches, by Grain: shuffling, threads, and a position that can be saved."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import partial
from typing import TypedDict

import grain
import numpy as np

from train.config import DataConfig
from train.data import images
from train.data.images import UnreadableImageError
from train.data.sources import Split
from train.errors import UserError

Batch = dict[str, np.ndarray]
"""`image` uint8 (b, h, w, c), `label` int32 (b,), `mask` bool (b,): False where the place is only filled up."""


class _Example(TypedDict):
    image: np.ndarray
    label: np.int32
    mask: np.bool_


@dataclasses.dataclass(frozen=True)
class Reader:
    """Reads the images of a split as the settings want them, before augmentation.

    Attributes:
      split: where the images are.
      config: the data's settings.
      image_shape: height, width and channels that the net sees, see `image_shape`.
      unreadable: names of the files that could not be decoded so far, where the settings skip them.
    """

    split: Split
    config: DataConfig
    image_shape: tuple[int, int, int]
    unreadable: set[str] = dataclasses.field(default_factory=set)

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> _Example:
        """Returns an example; one that cannot be decoded, where that is allowed, gives way to the next, unmasked."""
        for offset in range(len(self)):
            place = (index + offset) % len(self)
            try:
                image, label = self._read(place)
            except UnreadableImageError:
                if not self.config.skip_unreadable:
                    raise
                self.unreadable.add(self.split.name(place))
                continue
            return {"image": image, "label": np.int32(label), "mask": np.bool_(offset == 0)}
        raise UserError(f"none of the {len(self)} images of {self.config.source} can be decoded")

    def _read(self, place: int) -> tuple[np.ndarray, int]:
        image, label = self.split[place]
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] not in (1, 3):
            raise UserError(f"{self.split.name(place)} is {image.dtype} {image.shape}, not uint8 (h, w, 1 or 3)")
        if _shape_in_net(image, self.config) != self.image_shape:
            raise UserError(
                f"{self.split.name(place)} has height, width and channels {image.shape}, the first image "
                f"{self.image_shape}: set data.image_size, or data.channels where only channels differ"
            )
        return images.set_channels(image, self.image_shape[-1]), label


def image_shape(split: Split, config: DataConfig) -> tuple[int, int, int]:
    """Height, width and channels that the net will see: the settings', and where they give none the first image's."""
    for place in range(len(split)):
        try:
            return _shape_in_net(split[place][0], config)
        except UnreadableImageError:
            if not config.skip_unreadable:
                raise
    raise UserError(f"none of the {len(split)} images of {config.source} can be decoded")


def _shape_in_net(image: np.ndarray, config: DataConfig) -> tuple[int, int, int]:
    height, width, channels = image.shape
    return (config.image_size or height, config.image_size or width, config.channels or channels)


def _augment(config: DataConfig, example: _Example, rng: np.random.Generator) -> _Example:
    image = example["image"]
    if config.augmentation == "random_resized_crop":
        assert config.image_size is not None
        image = images.random_resized_crop(image, config.image_size, rng)
    elif config.image_size is not None:
        image = images.resize_and_crop(image, config.image_size, config.image_size)
    if config.augmentation == "pad_crop":
        image = images.pad_crop(image, config.pad, rng)
    if config.flip and rng.random() < 0.5:
        image = image[:, ::-1]
    return {**example, "image": image}


def evaluation_transform(config: DataConfig, image: np.ndarray) -> np.ndarray:
    """Resizes and crops the centre, where the settings give a size."""
    if config.image_size is None:
        return image
    return images.resize_and_crop(image, config.resize or config.image_size, config.image_size)


def training_iterator(reader: Reader, seed: int) -> grain.DatasetIterator:
    """Endless batches in an order that the seed fixes; every pass is shuffled anew and no image is left out.

    `get_state()` of the iterator is `{"next_index": batches given so far}`, whatever the threads have read ahead.
    """
    dataset = (
        grain.MapDataset.source(reader)
        .seed(seed)
        .shuffle()
        .repeat()
        .random_map(partial(_augment, reader.config))
        .batch(reader.config.batch_size, drop_remainder=True)
    )
    return iter(dataset.to_iter_dataset(_read_options(reader.config)))


def evaluation_batches(reader: Reader) -> Iterator[Batch]:
    """All images once, in order, in full batches: the last one is filled up with masked examples."""

    def transform(example: _Example) -> _Example:
        return {**example, "image": evaluation_transform(reader.config, example["image"])}

    size = reader.config.batch_size
    dataset = grain.MapDataset.source(reader).map(transform).batch(size, drop_remainder=False)
    for batch in dataset.to_iter_dataset(_read_options(reader.config)):
        missing = size - len(batch["label"])
        yield {name: np.pad(v, [(0, missing)] + [(0, 0)] * (v.ndim - 1)) for name, v in batch.items()}


def _read_options(config: DataConfig) -> grain.ReadOptions:
    return grain.ReadOptions(num_threads=config.num_threads, prefetch_buffer_size=config.num_threads + 2)
