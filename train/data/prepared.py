"""Prepared TFDS data sets, read without TensorFlow."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import math
import os
from typing import Any, Literal

import numpy as np

from train.config.errors import UserError, nearest
from train.data.archives import ARCHIVES
from train.data.dataset import Dataset, Split
from train.data.images import UnreadableImageError, decode

_CACHED_BYTES = 2**28
"""Smaller splits are cached in memory: finding a record takes 0.1 ms, as long as decoding a small image."""


@dataclasses.dataclass(frozen=True)
class _Records:
    source: Any
    channels: Literal[1, 3]
    num_classes: int
    title: str

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        record = self._record(index)
        label = int(record["label"])
        if not 0 <= label < self.num_classes:
            raise UserError(f"{self.name(index)} has label {label}, not one from 0 to {self.num_classes - 1}")
        return decode(io.BytesIO(record["image"]), self.name(index), channels=self.channels), label

    def has_labels(self) -> bool:
        """Whether the first record has a label: data sets of competitions withhold those of the test set, with -1."""
        return int(self._record(0)["label"]) >= 0

    def _record(self, index: int) -> Any:
        try:
            return self.source[index]
        except RuntimeError as error:
            raise UnreadableImageError(f"cannot read {self.name(index)}: {error}") from error

    def name(self, index: int) -> str:
        return f"record {index} of {self.title}"


@dataclasses.dataclass(frozen=True)
class _Cached:
    """Keeps examples in memory once they are read."""

    split: Split
    examples: dict[int, tuple[np.ndarray, int]] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        if index not in self.examples:
            self.examples[index] = self.split[index]
        return self.examples[index]

    def name(self, index: int) -> str:
        return self.split.name(index)


def open_prepared(name: str, data_dir: str | None) -> Dataset:
    """Opens the newest version of a data set on disk, whatever has prepared it.

    Raises:
      UserError: it is not prepared, is stored without random access, or has no images with class labels.
    """
    import tensorflow_datasets as tfds

    folder = tfds_folder(data_dir)
    try:
        builder = tfds.core.read_only_builder.builder_from_files(name, data_dir=folder)
    except tfds.core.DatasetNotFoundError:
        known = [*tfds.list_builders(with_community_datasets=False), *ARCHIVES]
        if _bare(name) in known:
            raise UserError(f"tfds:{name} is not prepared in {folder}: {_how_to_prepare(name, data_dir)}") from None
        raise UserError(
            f"TFDS knows no data set {name!r}, and none is prepared in {folder}{nearest(name, known)}"
        ) from None
    except ValueError as error:
        raise UserError(f"TFDS cannot open {name!r}: {error}") from error
    features, splits = builder.info.features, builder.info.splits
    if builder.info.file_format is not tfds.core.FileFormat.ARRAY_RECORD:
        stored = builder.info.file_format.value
        how = _how_to_prepare(name, data_dir)
        raise UserError(f"tfds:{name} is stored as {stored}, which has no random access: {how}")
    if not {"image", "label"} <= set(features):
        raise UserError(f"tfds:{name} has features {sorted(features)}, but not image and label")
    if not isinstance(features["label"], tfds.features.ClassLabel):
        raise UserError(f"tfds:{name} has no class labels: its label is {features['label']}")
    held_out = [_records(builder, split) for split in ("test", "validation") if split in splits]
    if "train" not in splits or not held_out:
        raise UserError(f"tfds:{name} has splits {sorted(splits)}, but not train and test or validation")
    test = next((records for records in held_out if records.has_labels()), None)
    if test is None:
        raise UserError(f"{held_out[0].title} has no labels, and there is no other to test on")
    shape, names = features["image"].shape, tuple(features["label"].names)
    origin = f"{builder.info.full_name} by {builder.info.module_name}"
    return Dataset(_cached(_records(builder, "train"), shape), _cached(test, shape), names, origin)


def _how_to_prepare(name: str, data_dir: str | None) -> str:
    """The command, and which files must be downloaded by hand first."""
    import tensorflow_datasets as tfds

    where = f" --data_dir={data_dir}" if data_dir else ""
    if name in ARCHIVES:
        return f"python -m train.prepare {name} --from DIR{where} (without --from it prints which files DIR must hold)"
    command = f"pip install -e '.[prepare]' && tfds build {name} --file_format=array_record{where}"
    by_hand = None
    with contextlib.suppress(ImportError, tfds.core.DatasetNotFoundError):
        by_hand = tfds.builder_cls(_bare(name)).MANUAL_DOWNLOAD_INSTRUCTIONS
    if not by_hand:
        return command
    wanted = " ".join(by_hand.split()).rstrip(".")
    return f"{command} --manual_dir=DIR ({wanted}); or take folder:PATH, with a folder for each class"


def _bare(name: str) -> str:
    """Name of a data set without builder config and version."""
    return name.partition("/")[0].partition(":")[0]


def _records(builder: Any, split: str) -> _Records:
    import tensorflow_datasets as tfds

    features = builder.info.features
    source = builder.as_data_source(split=split, decoders={"image": tfds.decode.SkipDecoding()})
    title = f"tfds:{builder.info.full_name}, split {split}"
    return _Records(source, features["image"].shape[-1], features["label"].num_classes, title)


def _cached(records: _Records, shape: tuple[int | None, ...]) -> Split:
    """Caches a split in memory if it is small."""
    sizes = [size for size in shape if size is not None]
    small = len(sizes) == len(shape) and math.prod(sizes) * len(records) < _CACHED_BYTES
    return _Cached(records) if small else records


def tfds_folder(data_dir: str | None) -> str:
    """Folder of the prepared data sets."""
    return os.path.expanduser(data_dir or os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets"))
