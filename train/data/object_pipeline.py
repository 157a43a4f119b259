"""From images with objects to batches: resized with their aspect ratio, padded to one of two sizes, and batched."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import grain
import numpy as np

from attnjax.detection import resize_masks, resized_size, scale_boxes
from train.config import Config
from train.config.errors import UserError
from train.data import images
from train.data.images import UnreadableImageError
from train.data.objects import ObjectImages
from train.data.pipeline import Batch, batches_of

MULTIPLE = 32
"""Padded sides are multiples of it, the stride of the last stage."""
_ENDLESS = 2**40
"""Training images of a stream without end."""


@dataclasses.dataclass(frozen=True)
class ObjectReader:
    """Reads images with objects as a detector takes them.

    Attributes:
      split: the images.
      config: settings of the run.
      masks: whether examples have masks.
      unreadable: names of the files that could not be decoded so far, with `data.skip_unreadable`.
    """

    split: ObjectImages
    config: Config
    masks: bool
    unreadable: set[str] = dataclasses.field(default_factory=set)

    def __len__(self) -> int:
        return len(self.split)

    def groups(self) -> list[np.ndarray]:
        """Indices of the images of each of `padded_sizes`."""
        sizes = padded_sizes(self.config)
        groups = np.array([sizes.index(padded_size(self.config, image.size)) for image in self.split.images])
        return [np.flatnonzero(groups == number) for number in range(len(sizes))]

    def blank(self, padded: tuple[int, int]) -> dict[str, Any]:
        """An example without image, which is masked."""
        settings = self.config.detection
        example: dict[str, Any] = {
            "image": np.zeros((*padded, 3), np.uint8),
            "size": np.array(padded, np.int32),
            "original_size": np.array(padded, np.int32),
            "boxes": np.zeros((settings.max_objects, 4), np.float32),
            "label": np.zeros(settings.max_objects, np.int32),
            "present": np.zeros(settings.max_objects, bool),
            "index": np.int32(0),
            "mask": np.bool_(False),
        }
        if self.masks:
            sides = (side // settings.mask_stride for side in padded)
            example["masks"] = np.zeros((settings.max_objects, *sides), np.uint8)
        return example

    def read(self, index: int, padded: tuple[int, int], rng: np.random.Generator | None) -> dict[str, Any] | None:
        """Like `example`; None, counted, if the image cannot be decoded and `data.skip_unreadable` is set."""
        try:
            return self.example(index, padded, rng)
        except UnreadableImageError:
            if not self.config.data.skip_unreadable:
                raise
            self.unreadable.add(self.split.name(index))
            return None

    def example(self, index: int, padded: tuple[int, int], rng: np.random.Generator | None) -> dict[str, Any]:
        """An image with its objects in an image of the padded size.

        Args:
          index: of the image.
          padded: height and width.
          rng: source of random scale and flip; None for neither.

        Returns:
          `image` uint8 (h, w, 3), `size` and `original_size` int32 (2,), `boxes` float32 (g, 4), `label` int32 (g,),
          `present` bool (g,), `masks` uint8 (g, h / stride, w / stride) where there are masks, `index` and `mask`; g is
          `detection.max_objects`.

        Raises:
          UnreadableImageError: the image cannot be decoded.
        """
        settings, image, example = self.config.detection, self.split.images[index], self.blank(padded)
        scale = 1.0 if rng is None else rng.uniform(settings.min_scale, 1.0)
        size = resized_size(image.size, max(1, round(scale * settings.short_side)), settings.long_side)
        pixels = images.resize(self.split.read(index, self.config.data.apply_exif_orientation), *size)
        boxes = scale_boxes(image.boxes, image.size, size)
        kept = largest(boxes, settings.max_objects)
        masks = resize_masks(self.split.read_masks(image)[kept], size) if self.masks else None
        if rng is not None and self.config.data.flip and rng.random() < 0.5:
            pixels, masks = pixels[:, ::-1], None if masks is None else masks[..., ::-1]
            boxes = np.stack([size[1] - boxes[:, 2], boxes[:, 1], size[1] - boxes[:, 0], boxes[:, 3]], axis=1)
        example["image"][: size[0], : size[1]] = pixels
        example["boxes"][: len(kept)], example["label"][: len(kept)] = boxes[kept], image.labels[kept]
        example["present"][: len(kept)] = True
        if masks is not None:
            example["masks"][: len(kept)] = _reduced(masks, padded, settings.mask_stride)
        known = {"size": np.array(size, np.int32), "original_size": np.array(image.size, np.int32)}
        return example | known | {"index": np.int32(index), "mask": np.bool_(True)}


def largest(boxes: np.ndarray, count: int) -> np.ndarray:
    """Indices of the `count` largest of the boxes (k, 4), in their order."""
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    return np.sort(np.argsort(-areas, kind="stable")[:count])


def _reduced(masks: np.ndarray, padded: tuple[int, int], stride: int) -> np.ndarray:
    """Masks (k, h, w) in the padded size, a pixel for `stride` x `stride`: 1 where at least half of them are."""
    full = np.zeros((len(masks), *padded), np.uint8)
    full[:, : masks.shape[1], : masks.shape[2]] = masks
    if stride == 1:
        return full
    height, width = padded
    parts = full.reshape(len(masks), height // stride, stride, width // stride, stride)
    return (parts.sum((2, 4), dtype=np.int32) * 2 >= stride**2).astype(np.uint8)


def padded_sizes(config: Config) -> list[tuple[int, int]]:
    """Heights and widths of the detector's input: in landscape and in portrait format; squares are landscape."""
    settings = config.detection
    short, long = (-(-side // MULTIPLE) * MULTIPLE for side in (settings.short_side, settings.long_side))
    return [(short, long)] if short == long else [(short, long), (long, short)]


def padded_size(config: Config, size: tuple[int, int]) -> tuple[int, int]:
    """Which of `padded_sizes` an image of a height and width is padded to."""
    return padded_sizes(config)[-1 if size[0] > size[1] else 0]


def padded_batch(
    config: Config, pictures: Sequence[np.ndarray], padded: tuple[int, int], count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images of any size as a detector takes them, with blank ones up to `count`.

    Args:
      config: settings of the run.
      pictures: uint8 (h, w, 3) each.
      padded: height and width of the batch.
      count: its number of images.

    Returns:
      Images, uint8 (count, *padded, 3), and their sizes and original sizes, int32 (count, 2).
    """
    batch = np.zeros((count, *padded, 3), np.uint8)
    sizes, original = np.tile(np.array(padded, np.int32), (2, count, 1))
    for row, picture in enumerate(pictures):
        original[row] = picture.shape[:2]
        sizes[row] = resized_size(picture.shape[:2], config.detection.short_side, config.detection.long_side)
        batch[row, : sizes[row, 0], : sizes[row, 1]] = images.resize(picture, *sizes[row].tolist())
    return batch, sizes, original


def training_objects(reader: ObjectReader, process: tuple[int, int] = (0, 1)) -> grain.DatasetIterator:
    """Yields batches of randomly scaled and flipped images without end, all of a batch padded to the same size.

    The images of each padded size are shuffled anew in each of their epochs. The state of the iterator is that of
    `training_iterator`. With `data.skip_unreadable` an undecodable image is replaced by the next one of its size, or by
    a masked one if there is none.

    Args:
      reader: the training images; the seed of its config fixes order and augmentation.
      process: index of this process and number of processes.

    Raises:
      UserError: an image cannot be decoded, or with `data.skip_unreadable` none can.
    """
    config, sizes, groups = reader.config, padded_sizes(reader.config), reader.groups()
    counts, batch_size = [len(group) for group in groups], reader.config.data.batch_size

    def read(position: int) -> dict[str, Any]:
        step, row = divmod(position, batch_size)
        number, before = _group(step, counts)
        group, rng = groups[number], np.random.default_rng((config.seed, 1, position))
        for offset in range(len(group)):
            epoch, turn = divmod(before * batch_size + row + offset, len(group))
            index = int(group[_order(config.seed, number, epoch, len(group))[turn]])
            example = reader.read(index, sizes[number], rng)
            if example is not None:
                return _without_index(example)
        if len(reader.unreadable) == len(reader):
            raise UserError(f"none of {len(reader)} images of {reader.split.source} can be decoded")
        return _without_index(reader.blank(sizes[number]))

    return iter(batches_of(grain.MapDataset.range(_ENDLESS).map(read), config.data, process))


def _without_index(example: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in example.items() if name != "index"}


def _group(step: int, counts: list[int]) -> tuple[int, int]:
    """The group of the batch of a step, and the number of batches of that group before it.

    Of n steps, the second of two groups has its share, rounded down.
    """
    if len(counts) == 1:
        return 0, step
    before, after = (steps * counts[1] // sum(counts) for steps in (step, step + 1))
    return (1, before) if after > before else (0, step - before)


@functools.lru_cache(maxsize=8)
def _order(seed: int, group: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng((seed, 0, group, epoch)).permutation(count)


def evaluation_objects(reader: ObjectReader, process: tuple[int, int] = (0, 1)) -> Iterator[Batch]:
    """Yields every image once in full batches; each batch has one padded size, and its rest is masked.

    Besides those of training, batches have `index`, that of the image.

    Args:
      reader: the test images.
      process: see `training_objects`.

    Raises:
      UserError: an image cannot be decoded, without `data.skip_unreadable`.
    """
    size = reader.config.data.batch_size
    wanted: list[tuple[int, tuple[int, int]]] = []
    for padded, group in zip(padded_sizes(reader.config), reader.groups(), strict=True):
        rest = -len(group) % size
        wanted += [(index, padded) for index in [*group.tolist(), *[-1] * rest]]

    def read(number: int) -> dict[str, Any]:
        index, padded = wanted[number]
        example = reader.read(index, padded, None) if index >= 0 else None
        return reader.blank(padded) if example is None else example

    return iter(batches_of(grain.MapDataset.range(len(wanted)).map(read), reader.config.data, process))
