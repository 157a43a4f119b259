"""From a split to batches with Grain: shuffling, threads, and an iterator whose state can be saved."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, TypedDict

import grain
import numpy as np

from train.config import DataConfig
from train.config.errors import UserError
from train.data import images
from train.data.augment import augment, squeezes
from train.data.dataset import Split
from train.data.images import UnreadableImageError

Batch = dict[str, np.ndarray]
"""`image` uint8 (b, h, w, c), `label` int32 (b,), `mask` bool (b,): False for padding, which counts nowhere."""


class _Example(TypedDict):
    image: np.ndarray
    label: np.int32
    mask: np.bool_


@dataclasses.dataclass(frozen=True)
class Reader:
    """Reads examples of a split and checks them, before augmentation.

    Attributes:
      split: the images.
      config: settings of the data.
      image_shape: height, width and channels of the net's input, see `image_shape`.
      unreadable: names of the files that could not be decoded so far, with `data.skip_unreadable`.
    """

    split: Split
    config: DataConfig
    image_shape: tuple[int, int, int]
    unreadable: set[str] = dataclasses.field(default_factory=set)

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> _Example:
        """Returns an example. With `data.skip_unreadable` the next one replaces an undecodable one, its mask False."""
        for offset in range(len(self)):
            position = (index + offset) % len(self)
            try:
                image, label = self._read(position)
            except UnreadableImageError:
                if not self.config.skip_unreadable:
                    raise
                self.unreadable.add(self.split.name(position))
                continue
            return {"image": image, "label": np.int32(label), "mask": np.bool_(offset == 0)}
        raise UserError(f"none of the {len(self)} images of {self.config.source} can be decoded")

    def _read(self, index: int) -> tuple[np.ndarray, int]:
        image, label = self.split[index]
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] not in (1, 3):
            raise UserError(f"{self.split.name(index)} is {image.dtype} {image.shape}, not uint8 (h, w, 1 or 3)")
        if _shape_in_net(image, self.config) != self.image_shape:
            raise UserError(
                f"{self.split.name(index)} has height, width and channels {image.shape}, the first image "
                f"{self.image_shape}: set data.image_size, or data.channels where only channels differ"
            )
        if image.shape[-1] != self.image_shape[-1]:
            image = images.set_channels(image, self.image_shape[-1])
        return image, label


def image_shape(split: Split, config: DataConfig) -> tuple[int, int, int]:
    """Height, width and channels of the net's input: those of the settings, and of the first image where they are None.

    Raises:
      UserError: no image can be decoded.
    """
    for index in range(len(split)):
        try:
            return _shape_in_net(split[index][0], config)
        except UnreadableImageError:
            if not config.skip_unreadable:
                raise
    raise UserError(f"none of the {len(split)} images of {config.source} can be decoded")


def _shape_in_net(image: np.ndarray, config: DataConfig) -> tuple[int, int, int]:
    height, width, channels = image.shape
    return (config.image_size or height, config.image_size or width, config.channels or channels)


def evaluation_transform(config: DataConfig, image: np.ndarray) -> np.ndarray:
    """Resizes an image and crops its centre to `data.image_size`, if that is set."""
    if config.image_size is None:
        return image
    cut = images.squeeze_and_crop if squeezes(config) else images.resize_and_crop
    return cut(image, config.resize or config.image_size, config.image_size)


def read_input(path: str, config: DataConfig, image_shape: tuple[int, int, int]) -> np.ndarray:
    """Reads an image file and prepares it as the test images of a run are, uint8 of the shape of the net's input.

    Raises:
      UnreadableImageError: the file is missing, no image, or damaged.
    """
    height, width, channels = image_shape
    image = images.set_channels(images.read_image(path, config.apply_exif_orientation), channels)
    if config.image_size is None:
        return images.fill(image, height, width)
    return evaluation_transform(config, image)


def training_iterator(reader: Reader, seed: int, process: tuple[int, int] = (0, 1)) -> grain.DatasetIterator:
    """Yields batches of augmented images without end; each epoch is shuffled anew and has every image once.

    `get_state()` of the iterator is `{"next_index": n}` after n batches, however far its threads have read ahead.

    Args:
      reader: the training images.
      seed: of their order and augmentation.
      process: index of this process and number of processes. Each reads its own rows of every batch. Concatenated in
        order they are the batch of a single process, so that a run can be resumed with another number of processes.
    """

    def transform(example: _Example, rng: np.random.Generator) -> dict[str, Any]:
        return {"image": augment(reader.config, example["image"], rng), "label": example["label"]}

    dataset = grain.MapDataset.source(reader).seed(seed).shuffle().repeat().random_map(transform)
    return iter(batches_of(dataset, reader.config, process))


def evaluation_batches(
    reader: Reader,
    process: tuple[int, int] = (0, 1),
    transform: Callable[[DataConfig, np.ndarray], np.ndarray] = evaluation_transform,
) -> Iterator[Batch]:
    """Yields every image once, in order, in full batches: the last one is padded with masked examples.

    Args:
      reader: the images.
      process: index of this process and number of processes. Each reads its own rows of every batch, so that all have
        the same number of batches.
      transform: from the settings and an image to the net's input, of one shape for all images.
    """

    def read(index: int) -> _Example:
        if index < len(reader):
            example = reader[index]
        else:
            example = {"image": np.zeros(reader.image_shape, np.uint8), "label": np.int32(0), "mask": np.bool_(False)}
        return {**example, "image": transform(reader.config, example["image"])}

    size = reader.config.batch_size
    padded = -(-len(reader) // size) * size
    return iter(batches_of(grain.MapDataset.range(padded).map(read), reader.config, process))


def batches_of(dataset: grain.MapDataset, config: DataConfig, process: tuple[int, int]) -> grain.IterDataset:
    """Batches of the rows of one process: it reads part i of each batch, of as many parts as there are processes."""
    index, count = process
    parts = dataset.batch(config.batch_size // count, drop_remainder=True)[index::count]
    threads = config.num_threads
    return parts.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads + 2))
