"""The sources behind one interface: digits, alone or on canvases, prepared TFDS sets and image folders."""

from __future__ import annotations

import dataclasses
import os

import numpy as np

from train.config import DataConfig
from train.config.errors import UserError
from train.data.canvas import on_canvases
from train.data.dataset import Dataset, Split
from train.data.images import SUFFIXES, read_image
from train.data.prepared import open_prepared


def open_dataset(config: DataConfig) -> Dataset:
    """Opens the source that the settings name.

    Raises:
      UserError: it is not there, is empty, is not as it should be, or has fewer training images than are asked for.
    """
    dataset = _open(config)
    if config.train_images is None:
        return dataset
    return dataclasses.replace(dataset, train=_some(dataset.train, config.train_images))


def _open(config: DataConfig) -> Dataset:
    kind, _, name = config.source.partition(":")
    if kind == "tfds":
        return open_prepared(name, config.tfds_dir)
    if kind == "folder":
        return _folder(name, config)
    return on_canvases(_digits()) if kind == "canvas_digits" else _digits()


@dataclasses.dataclass(frozen=True)
class _Some:
    """Some images of a split."""

    split: Split
    places: np.ndarray

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return self.split[int(self.places[index])]

    def name(self, index: int) -> str:
        return self.split.name(int(self.places[index]))


def _some(split: Split, count: int) -> Split:
    """The first images of a shuffle that is always the same: more of them hold fewer of them."""
    if count > len(split):
        raise UserError(f"data.train_images={count} is more than the {len(split)} training images that there are")
    return _Some(split, np.random.default_rng(0).permutation(len(split))[:count])


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
    """1,797 scanned digits of 8x8 pixels with 17 levels of gray; 1,437 to train on and 360 to test on, stratified.

    Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998, as scikit-learn ships it.
    """
    import sklearn
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    kept, held_out = _stratified_split(bunch.target, 360)
    train, test = (_Arrays(images[part], bunch.target[part]) for part in (kept, held_out))
    return Dataset(train, test, tuple(map(str, range(10))), f"digits of scikit-learn {sklearn.__version__}")


def _stratified_split(labels: np.ndarray, test_size: int | float) -> tuple[np.ndarray, np.ndarray]:
    """Sorted indices of two parts with the same share of every class; always the same for the same labels."""
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
    inside = _subfolders(path)
    test_name = next((name for name in ("test", "val") if name in inside), None)
    if "train" in inside:
        if test_name is None:
            raise UserError(f"{path} has a folder train, but neither test nor val")
        class_names = _subfolders(os.path.join(path, "train"))
        test_classes = _subfolders(os.path.join(path, test_name))
        if class_names != test_classes:
            odd = sorted(set(class_names) ^ set(test_classes))
            raise UserError(f"{path}: train and {test_name} differ in these class folders: {', '.join(odd[:10])}")
        parts = [_list_files(os.path.join(path, part), class_names) for part in ("train", test_name)]
    elif test_name is not None:
        raise UserError(f"{path} has a folder {test_name}, but no train")
    else:
        class_names = inside
        paths, labels = _list_files(path, class_names)
        if min(np.bincount(labels)) < 2:
            few = class_names[int(np.argmin(np.bincount(labels)))]
            raise UserError(f"{path}/{few} has fewer than the 2 images that a train and test split needs")
        try:
            split = _stratified_split(np.asarray(labels), config.test_fraction)
        except ValueError as error:
            raise UserError(f"{path} cannot be split with test_fraction={config.test_fraction}: {error}") from error
        parts = [(tuple(paths[i] for i in part), tuple(labels[i] for i in part)) for part in split]
    train, test = (_Files(*part, config.apply_exif_orientation) for part in parts)
    return Dataset(train, test, tuple(class_names), f"folder {os.path.abspath(path)}")


def _subfolders(path: str) -> list[str]:
    return sorted(entry.name for entry in os.scandir(path) if entry.is_dir() and not entry.name.startswith("."))


def _list_files(path: str, class_names: list[str]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Image files of each class folder, sorted, at any depth."""
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
