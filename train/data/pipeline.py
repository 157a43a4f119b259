"""From a split to batches, by Grain: shuffling, threads, and a position that can be saved."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import TypedDict

import grain
import numpy as np

from train.config import DataConfig
from train.config.errors import UserError
from train.data import images
from train.data.augment import augment
from train.data.dataset import Split
from train.data.images import UnreadableImageError

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


def evaluation_transform(config: DataConfig, image: np.ndarray) -> np.ndarray:
    """Resizes and crops the centre, where the settings give a size."""
    if config.image_size is None:
        return image
    cut = images.squeeze_and_crop if config.augmentation == "resize_crop" else images.resize_and_crop
    return cut(image, config.resize or config.image_size, config.image_size)


def training_iterator(reader: Reader, seed: int, process: tuple[int, int] = (0, 1)) -> grain.DatasetIterator:
    """Endless batches in an order that the seed fixes; every pass is shuffled anew and no image is left out.

    `get_state()` of the iterator is `{"next_index": batches given so far}`, whatever the threads have read ahead.

    Args:
      reader: the training images.
      seed: of their order and augmentation.
      process: which of how many processes this is. Each reads its own rows of every batch; all of them, put together
        in order, are the batch that a single process would read, and so one may go on where several have stopped.
    """

    def transform(example: _Example, rng: np.random.Generator) -> _Example:
        return {**example, "image": augment(reader.config, example["image"], rng)}

    dataset = grain.MapDataset.source(reader).seed(seed).shuffle().repeat().random_map(transform)
    return iter(_batches(dataset, reader.config, process))


def evaluation_batches(
    reader: Reader,
    process: tuple[int, int] = (0, 1),
    transform: Callable[[DataConfig, np.ndarray], np.ndarray] = evaluation_transform,
) -> Iterator[Batch]:
    """All images once, in order, in full batches: the last one is filled up with masked examples.

    Args:
      reader: the images.
      process: which of how many processes this is. Each reads its own rows of every batch, so that all have the same
        number of batches.
      transform: makes of an image, by the data's settings, what the net is given; the shape is the same for all.
    """

    def read(index: int) -> _Example:
        if index < len(reader):
            example = reader[index]
        else:
            example = {"image": np.zeros(reader.image_shape, np.uint8), "label": np.int32(0), "mask": np.bool_(False)}
        return {**example, "image": transform(reader.config, example["image"])}

    size = reader.config.batch_size
    places = -(-len(reader) // size) * size
    return iter(_batches(grain.MapDataset.range(places).map(read), reader.config, process))


def _batches(dataset: grain.MapDataset, config: DataConfig, process: tuple[int, int]) -> grain.IterDataset:
    """The rows of a process: with P of them a batch is P parts, of which each process takes its own."""
    index, count = process
    parts = dataset.batch(config.batch_size // count, drop_remainder=True)[index::count]
    threads = config.num_threads
    return parts.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads + 2))
