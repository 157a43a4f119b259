"""Data sets that TFDS has prepared, read without TensorFlow."""

from __future__ import annotations

import dataclasses
import difflib
import io
import math
import os
from typing import Any, Literal

import numpy as np

from train.data.archives import ARCHIVES
from train.data.dataset import Dataset, Split
from train.data.images import UnreadableImageError, decode
from train.errors import UserError

_KEPT_BYTES = 2**28
"""Splits of fewer bytes stay in memory: a record costs 0.1 ms to find, as long as a small image to decode."""


@dataclasses.dataclass(frozen=True)
class _Records:
    source: Any
    channels: Literal[1, 3]
    title: str

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        try:
            record = self.source[index]
        except RuntimeError as error:
            raise UnreadableImageError(f"cannot read {self.name(index)}: {error}") from error
        image = decode(io.BytesIO(record["image"]), self.name(index), channels=self.channels)
        return image, int(record["label"])

    def name(self, index: int) -> str:
        return f"record {index} of {self.title}"


@dataclasses.dataclass(frozen=True)
class _Kept:
    """Keeps what it has read."""

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
    """Opens the newest version of a data set on disk, whoever has prepared it.

    Raises:
      UserError: it is not prepared, has no random access, or no images with class labels.
    """
    import tensorflow_datasets as tfds

    folder = tfds_folder(data_dir)
    command = f"pip install -e '.[prepare]' && tfds build {name} --file_format=array_record"
    if name in ARCHIVES:
        command = f"python -m train.prepare {name} --from DIR"
    if data_dir:
        command += f" --data_dir={data_dir}"
    try:
        builder = tfds.core.read_only_builder.builder_from_files(name, data_dir=folder)
    except tfds.core.DatasetNotFoundError:
        known = [*tfds.list_builders(with_community_datasets=False), *ARCHIVES]
        if name.partition("/")[0].partition(":")[0] in known:
            raise UserError(f"tfds:{name} is not prepared in {folder}: {command}") from None
        raise UserError(
            f"TFDS knows no data set {name!r}, and none is prepared in {folder}{nearest(name, known)}"
        ) from None
    except ValueError as error:
        raise UserError(f"TFDS cannot open {name!r}: {error}") from error
    features, splits = builder.info.features, builder.info.splits
    if builder.info.file_format is not tfds.core.FileFormat.ARRAY_RECORD:
        stored = builder.info.file_format.value
        raise UserError(f"tfds:{name} is stored as {stored}, which has no random access: {command}")
    if not {"image", "label"} <= set(features):
        raise UserError(f"tfds:{name} has features {sorted(features)}, but not image and label")
    if not isinstance(features["label"], tfds.features.ClassLabel):
        raise UserError(f"tfds:{name} has no class labels: its label is {features['label']}")
    test = next((split for split in ("test", "validation") if split in splits), None)
    if "train" not in splits or test is None:
        raise UserError(f"tfds:{name} has splits {sorted(splits)}, but not train and test or validation")
    return Dataset(_open_split(builder, "train"), _open_split(builder, test), tuple(features["label"].names))


def _open_split(builder: Any, split: str) -> Split:
    import tensorflow_datasets as tfds

    shape = builder.info.features["image"].shape
    source = builder.as_data_source(split=split, decoders={"image": tfds.decode.SkipDecoding()})
    records = _Records(source, shape[-1], f"tfds:{builder.info.full_name}, split {split}")
    small = None not in shape and math.prod(shape) * len(records) < _KEPT_BYTES
    return _Kept(records) if small else records


def tfds_folder(data_dir: str | None) -> str:
    """Folder of the prepared data sets."""
    return os.path.expanduser(data_dir or os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets"))


def nearest(name: str, names: list[str]) -> str:
    """Ends a message with the nearest of some names, where one is near."""
    near = difflib.get_close_matches(name, names, n=1)
    return f": did you mean {near[0]}?" if near else ""
