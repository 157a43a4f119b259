"""A TFDS set of 60 digits, prepared without TensorFlow: its images are yielded as PNG files."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from PIL import Image
from sklearn.datasets import load_digits


class TinyDigits(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """The first 40 digits to train on, the next 20 to test on."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        label = tfds.features.ClassLabel(names=[str(digit) for digit in range(10)])
        features = tfds.features.FeaturesDict({"image": tfds.features.Image(shape=(8, 8, 1)), "label": label})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {"train": self._generate_examples(0, 40), "test": self._generate_examples(40, 60)}

    def _generate_examples(self, start: int, stop: int) -> Iterator[tuple[int, dict[str, Any]]]:
        bunch = load_digits()
        for index in range(start, stop):
            file = io.BytesIO()
            Image.fromarray((bunch.images[index] * 15).astype("uint8")).save(file, "PNG")
            yield index, {"image": io.BytesIO(file.getvalue()), "label": int(bunch.target[index])}


def prepare(folder: Path) -> None:
    """Writes the set into a folder of prepared sets."""
    TinyDigits(data_dir=str(folder), file_format="array_record").download_and_prepare()
