"""The sources of images behind one interface, `open_dataset`.

To add one, write a function from the argument of `data.source` and the settings to a `Dataset`, and enter it in
`SOURCES`.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable

import numpy as np

from train.config import DataConfig
from train.config.errors import UserError, nearest
from train.data.augment import check_augmentation
from train.data.canvas import on_canvases
from train.data.dataset import Dataset, Split
from train.data.images import SUFFIXES, read_image
from train.data.prepared import open_prepared


def open_dataset(config: DataConfig) -> Dataset:
    """Opens the source that `data.source` names.

    Raises:
      UserError: there is no such source or augmentation, the images are missing or damaged, or there are fewer training
        images than `data.train_images`.
    """
    check_augmentation(config)
    kind, _, argument = config.source.partition(":")
    forms = [form for form in SOURCES if form.partition(":")[0] == kind and (":" in form) == bool(argument)]
    if kind in ("coco", "voc"):
        raise UserError(f"data.source={config.source!r} is for detectors, such as retinanet_resnet50: set model.name")
    if not forms:
        *others, last = SOURCES
        allowed = f"{', '.join(others)} or {last}{nearest(config.source, SOURCES)}"
        raise UserError(f"data.source={config.source!r} must be {allowed}")
    dataset = SOURCES[forms[0]](argument, config)
    if config.train_images is None:
        return dataset
    return dataclasses.replace(dataset, train=_subset(dataset.train, config.train_images))


@dataclasses.dataclass(frozen=True)
class _Subset:
    split: Split
    indices: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return self.split[int(self.indices[index])]

    def name(self, index: int) -> str:
        return self.split.name(int(self.indices[index]))


def _subset(split: Split, count: int) -> Split:
    """The first images of a fixed permutation: a larger subset contains the smaller ones."""
    if count > len(split):
        raise UserError(f"data.train_images={count} is more than the {len(split)} training images of the source")
    return _Subset(split, np.random.default_rng(0).permutation(len(split))[:count])


@dataclasses.dataclass(frozen=True)
class _Arrays:
    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return self.images[index], int(self.labels[index])

    def name(self, index: int) -> str:
        return f"digit {index}"


def _digits() -> Dataset:
    """1,797 scanned digits of 8x8 pixels with 17 grey levels, in a stratified split of 1,437 and 360.

    Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998, as scikit-learn ships it.
    """
    import sklearn
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    train, test = (_Arrays(images[part], bunch.target[part]) for part in _stratified_split(bunch.target, 360))
    return Dataset(train, test, tuple(map(str, range(10))), f"digits of scikit-learn {sklearn.__version__}")


def _stratified_split(labels: np.ndarray, test_size: int | float) -> tuple[np.ndarray, np.ndarray]:
    """Sorted indices of two parts with the same share of every class, fixed by the labels alone."""
    from sklearn.model_selection import train_test_split

    parts = train_test_split(np.arange(len(labels)), test_size=test_size, stratify=labels, random_state=0)
    return np.sort(parts[0]), np.sort(parts[1])


@dataclasses.dataclass(frozen=True)
class _Files:
    paths: tuple[str, ...]
    labels: tuple[int, ...]
    apply_exif_orientation: bool

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return read_image(self.paths[index], self.apply_exif_orientation), self.labels[index]

    def name(self, index: int) -> str:
        return self.paths[index]


def _folder(path: str, config: DataConfig) -> Dataset:
    path = os.path.expanduser(path)
    if not os.path.isdir(path):
        raise UserError(f"there is no folder {path} (data.source={config.source!r})")
    class_names = _subfolders(path)
    if {"train", "test", "val"} & set(class_names):
        class_names, parts = _given_split(path, class_names)
    else:
        parts = _own_split(path, class_names, config.test_fraction)
    train, test = (_Files(*part, config.apply_exif_orientation) for part in parts)
    return Dataset(train, test, tuple(class_names), f"folder {os.path.abspath(path)}")


_Labelled = tuple[tuple[str, ...], tuple[int, ...]]


def _given_split(path: str, inside: list[str]) -> tuple[list[str], list[_Labelled]]:
    """Class names, and paths and labels of the folders train and test or val."""
    test_name = next((name for name in ("test", "val") if name in inside), None)
    if test_name is None:
        raise UserError(f"{path} has a folder train, but neither test nor val")
    if "train" not in inside:
        raise UserError(f"{path} has a folder {test_name}, but no train")
    class_names = _subfolders(os.path.join(path, "train"))
    test_classes = _subfolders(os.path.join(path, test_name))
    if class_names != test_classes:
        odd = sorted(set(class_names) ^ set(test_classes))
        raise UserError(f"{path}: train and {test_name} differ in these class folders: {', '.join(odd[:10])}")
    return class_names, [_list_files(os.path.join(path, part), class_names) for part in ("train", test_name)]


def _own_split(path: str, class_names: list[str], test_fraction: float) -> list[_Labelled]:
    """Paths and labels of two parts of the images, with the same share of every class."""
    paths, labels = _list_files(path, class_names)
    counts = np.bincount(labels)
    if counts.min() < 2:
        few = class_names[int(np.argmin(counts))]
        raise UserError(f"{path}/{few} has fewer than the 2 images that a train and test split needs")
    try:
        split = _stratified_split(np.asarray(labels), test_fraction)
    except ValueError as error:
        raise UserError(f"{path} cannot be split with test_fraction={test_fraction}: {error}") from error
    return [(tuple(paths[i] for i in part), tuple(labels[i] for i in part)) for part in split]


def _subfolders(path: str) -> list[str]:
    return sorted(entry.name for entry in os.scandir(path) if entry.is_dir() and not entry.name.startswith("."))


def _list_files(path: str, class_names: list[str]) -> _Labelled:
    """Paths of the image files below each class folder, sorted, and their labels."""
    if len(class_names) < 2:
        raise UserError(f"{path} needs a folder for each of at least two classes, found {class_names}")
    paths: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(class_names):
        files = [
            os.path.join(folder, file)
            for folder, _, names in os.walk(os.path.join(path, name))
            for file in names
            if file.lower().endswith(SUFFIXES) and not file.startswith(".")
        ]
        if not files:
            raise UserError(f"class folder {os.path.join(path, name)} holds no {', '.join(SUFFIXES)} files")
        paths += sorted(files)
        labels += [label] * len(files)
    return tuple(paths), tuple(labels)


SOURCES: dict[str, Callable[[str, DataConfig], Dataset]] = {
    "digits": lambda argument, config: _digits(),
    "canvas_digits": lambda argument, config: on_canvases(_digits()),
    "tfds:NAME": lambda name, config: open_prepared(name, config.tfds_dir),
    "folder:PATH": _folder,
}
"""By the form of `data.source`: what opens it, given its argument (what follows the colon) and the settings."""
