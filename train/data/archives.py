"""Data sets in the form that their authors publish, unpacked in a folder: their files, and how to read them."""

from __future__ import annotations

import dataclasses
import gzip
import io
import os
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from train.config.errors import UserError
from train.data.images import read_image


class Part(NamedTuple):
    """Labels of a split, and a function from an index to an encoded image: PNG where the archive holds raw pixels."""

    labels: Sequence[int]
    read: Callable[[int], bytes]


class Contents(NamedTuple):
    """Class names by label, and the images of both splits, read lazily."""

    class_names: list[str]
    train: Part
    test: Part


@dataclasses.dataclass(frozen=True)
class Archive:
    """A data set that can be prepared from its authors' files.

    Attributes:
      source: what the folder must contain, the page to download it from, its size, and its licence if known.
      files: required paths below the folder.
      shape: height, width and channels of the images; None where they vary.
      counts: numbers of training and test images.
      read: function from the folder to its contents.
    """

    source: str
    files: tuple[str, ...]
    shape: tuple[int | None, int | None, int]
    counts: tuple[int, int]
    read: Callable[[str], Contents]

    def open(self, folder: str) -> Contents:
        """Reads the folder.

        Raises:
          UserError: files are missing or damaged.
        """
        folder = os.path.expanduser(folder)
        missing = [path for path in self.files if not os.path.exists(os.path.join(folder, path))]
        if missing:
            if not os.path.isdir(folder):
                raise UserError(f"there is no folder {folder}")
            raise UserError(f"{folder} has no {', '.join(missing)}: it must hold {self.source}")
        try:
            contents = self.read(folder)
            self._check(contents)
        except (EOFError, LookupError, OSError, ValueError, zlib.error) as error:
            raise UserError(f"{folder} does not hold {self.source}, or is damaged: {describe(error)}") from error
        return contents

    def _check(self, contents: Contents) -> None:
        counts = (len(contents.train.labels), len(contents.test.labels))
        if counts != self.counts:
            raise ValueError("{} training and {} test images, not {} and {}".format(*counts, *self.counts))
        last = len(contents.class_names) - 1
        for label in (*contents.train.labels, *contents.test.labels):
            if not 0 <= label <= last:
                raise ValueError(f"an image of class {label}, where classes are counted from 0 to {last}")


def describe(error: Exception) -> str:
    """Describes a read error in one line."""
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return f"missing key {error}" if isinstance(error, KeyError) else " ".join(str(error).split())


def _lines(*path: str) -> list[str]:
    with open(os.path.join(*path)) as file:
        return file.read().splitlines()


def _table(*path: str) -> dict[str, str]:
    """Lines of a key, a space and a value, as a dict."""
    return dict(line.split(" ", 1) for line in _lines(*path))


def _pixels(images: np.ndarray, labels: np.ndarray) -> Part:
    if len(images) != len(labels):
        raise ValueError(f"{len(images)} images and {len(labels)} labels")
    return Part(labels.tolist(), lambda index: _encode(images[index], "PNG"))


def _photos(folder: str, photos: list[tuple[str, int]], read: Callable[[str], bytes]) -> Part:
    """Photos by name and label. Names outside of the folder are refused, since the list may be untrusted."""
    for name, _ in photos:
        if os.path.isabs(name) or ".." in Path(name).parts:
            raise ValueError(f"a photo is named {name}, which is outside of {folder}")
    return Part([label for _, label in photos], lambda index: read(os.path.join(folder, photos[index][0])))


def _photo(path: str) -> bytes:
    Image.open(path).close()  # raises if it is no image
    return Path(path).read_bytes()


def _encode(image: np.ndarray, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind, **options)
    return file.getvalue()


def _idx(path: str, *shape: int) -> np.ndarray:
    """Reads bytes in the IDX format of MNIST: data type and rank, the shape as big-endian int32, the values."""
    data = gzip.decompress(Path(path).read_bytes())
    start = 8 + 4 * len(shape)
    if data[:4] != bytes([0, 0, 8, 1 + len(shape)]) or data[8:start] != np.asarray(shape, ">i4").tobytes():
        raise ValueError(f"{path} does not hold bytes of shape {shape} in the format of MNIST")
    return np.frombuffer(data, np.uint8, offset=start).reshape(int.from_bytes(data[4:8]), *shape)


def _fashion_mnist(folder: str) -> Contents:
    names = "T-shirt/top Trouser Pullover Dress Coat Sandal Shirt Sneaker Bag Ankle_boot"

    def part(name: str) -> Part:
        images = _idx(os.path.join(folder, f"{name}-images-idx3-ubyte.gz"), 28, 28)
        return _pixels(images, _idx(os.path.join(folder, f"{name}-labels-idx1-ubyte.gz")))

    return Contents([name.replace("_", " ") for name in names.split()], part("train"), part("t10k"))


def _cifar(folder: str, names: str, label: int, train: Iterable[str], test: str) -> Contents:
    """Reads records of one or two labels, of which the last counts, and red, green and blue planes of 32x32 bytes."""

    def part(files: Iterable[str]) -> Part:
        records = np.concatenate([np.fromfile(os.path.join(folder, file), np.uint8) for file in files])
        records = records.reshape(-1, label + 1 + 3 * 32 * 32)
        return _pixels(records[:, label + 1 :].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), records[:, label])

    return Contents([line for line in _lines(folder, names) if line], part(train), part([test]))


def _cifar10(folder: str) -> Contents:
    batches = [f"data_batch_{number}.bin" for number in range(1, 6)]
    return _cifar(os.path.join(folder, "cifar-10-batches-bin"), "batches.meta.txt", 0, batches, "test_batch.bin")


def _cifar100(folder: str) -> Contents:
    return _cifar(os.path.join(folder, "cifar-100-binary"), "fine_label_names.txt", 1, ["train.bin"], "test.bin")


def _birds(folder: str) -> Contents:
    folder = os.path.join(folder, "CUB_200_2011")
    paths, labels, parts, classes = (
        _table(folder, f"{name}.txt") for name in ("images", "image_class_labels", "train_test_split", "classes")
    )

    def part(flag: str) -> Part:
        chosen = [(paths[key], int(labels[key]) - 1) for key in paths if parts[key] == flag]
        return _photos(os.path.join(folder, "images"), chosen, _photo)

    return Contents(list(classes.values()), part("1"), part("0"))


def _cars(folder: str) -> Contents:
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    def load(key: str, *path: str) -> np.ndarray:
        file = os.path.join(folder, *path)
        try:
            return np.atleast_1d(loadmat(file, squeeze_me=True)[key])
        except (LookupError, MatReadError, OSError, TypeError, ValueError) as error:
            raise ValueError(f"{file} cannot be read: {error}") from error

    def part(name: str, *annotations: str) -> Part:
        chosen = [(str(row["fname"]), int(row["class"]) - 1) for row in load("annotations", *annotations)]
        return _photos(os.path.join(folder, name), chosen, _photo)

    names = [str(name) for name in load("class_names", "devkit", "cars_meta.mat")]
    train = part("cars_train", "devkit", "cars_train_annos.mat")
    return Contents(names, train, part("cars_test", "cars_test_annos_withlabels.mat"))


def _aircraft(folder: str) -> Contents:
    folder = os.path.join(folder, "fgvc-aircraft-2013b", "data")
    names = _lines(folder, "variants.txt")

    def part(name: str) -> Part:
        table = _table(folder, f"images_variant_{name}.txt")
        chosen = [(f"{key}.jpg", names.index(variant)) for key, variant in table.items()]
        return _photos(os.path.join(folder, "images"), chosen, _without_banner)

    return Contents(names, part("trainval"), part("test"))


def _without_banner(path: str) -> bytes:
    """Crops the lowest 20 rows, which name the photographer, and encodes the photo again at high quality."""
    return _encode(read_image(path)[:-20], "JPEG", quality=95)


_CIFAR = "of https://www.cs.toronto.edu/~kriz/cifar.html, unpacked"
_SIZES = ((32, 32, 3), (50_000, 10_000))

ARCHIVES = {
    "fashion_mnist": Archive(
        "the four .gz files (31 MB, MIT licence), as they are, of https://github.com/zalandoresearch/fashion-mnist "
        "(or take /usr/share/datasets/fashion-mnist of Debian's package dataset-fashion-mnist)",
        tuple(f"{part}-{kind}-ubyte.gz" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")),
        (28, 28, 1),
        (60_000, 10_000),
        _fashion_mnist,
    ),
    "cifar10": Archive(f"cifar-10-binary.tar.gz (170 MB) {_CIFAR}", ("cifar-10-batches-bin",), *_SIZES, _cifar10),
    "cifar100": Archive(f"cifar-100-binary.tar.gz (169 MB) {_CIFAR}", ("cifar-100-binary",), *_SIZES, _cifar100),
    "caltech_birds2011": Archive(
        "CUB_200_2011.tgz (1.2 GB) of https://www.vision.caltech.edu/datasets/cub_200_2011, unpacked",
        ("CUB_200_2011",),
        (None, None, 3),
        (5994, 5794),
        _birds,
    ),
    "cars196": Archive(
        "cars_train.tgz, cars_test.tgz and car_devkit.tgz (2.0 GB), unpacked, and cars_test_annos_withlabels.mat of "
        "https://ai.stanford.edu/~jkrause/cars/car_dataset.html (Stanford Cars) or a copy of it",
        ("cars_train", "cars_test", "devkit/cars_meta.mat", "cars_test_annos_withlabels.mat"),
        (None, None, 3),
        (8144, 8041),
        _cars,
    ),
    "fgvc_aircraft": Archive(
        "fgvc-aircraft-2013b.tar.gz (2.75 GB, for research that is not commercial) of "
        "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft, unpacked",
        ("fgvc-aircraft-2013b",),
        (None, None, 3),
        (6667, 3333),
        _aircraft,
    ),
}
"""By name, as in `tfds:NAME` once prepared: TFDS's own name where TFDS has the data set."""
