"""The sources of images with objects behind one interface, `open_objects`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from train.config import DataConfig
from train.config.errors import UserError, nearest
from train.data.coco import read_coco
from train.data.dataset import Dataset
from train.data.objects import ObjectImages
from train.data.voc import read_voc

_TRAIN, _TEST = ("train2017", "train"), ("val2017", "val", "valid", "test")
"""Names of the parts of a data set in COCO's format."""


def open_objects(config: DataConfig, *, masks: bool) -> Dataset:
    """Opens the source that `data.source` names; both splits are `ObjectImages`.

    Args:
      config: settings of the data.
      masks: whether every object must have a mask.

    Raises:
      UserError: there is no such source, files are missing or damaged, or there are fewer training images than
        `data.train_images`.
    """
    kind, _, path = config.source.partition(":")
    if f"{kind}:PATH" not in OBJECT_SOURCES or not path:
        near = nearest(kind, [form.partition(":")[0] for form in OBJECT_SOURCES])
        allowed = f"{' or '.join(OBJECT_SOURCES)} for a detector{near}"
        raise UserError(f"data.source={config.source!r} must be {allowed}")
    folder = os.path.expanduser(path)
    if not os.path.isdir(folder):
        raise UserError(f"there is no folder {folder} (data.source={config.source!r})")
    train, test = OBJECT_SOURCES[f"{kind}:PATH"](folder, config, masks)
    if train.class_names != test.class_names or train.category_ids != test.category_ids:
        odd = sorted(set(train.class_names) ^ set(test.class_names)) or "the ids of their categories"
        raise UserError(f"{train.source} and {test.source} differ in their categories: {odd}")
    if config.train_images is not None:
        if config.train_images > len(train):
            raise UserError(f"data.train_images={config.train_images} is more than the {len(train)} training images")
        train = train.select(np.random.default_rng(0).permutation(len(train))[: config.train_images].tolist())
    return Dataset(train, test, train.class_names, f"{kind} {os.path.abspath(folder)}")


def _coco(folder: str, config: DataConfig, masks: bool) -> tuple[ObjectImages, ObjectImages]:
    """The parts of a folder in the layout of COCO or one of the simpler ones of `_annotations`."""
    found = [next(_annotations(folder, names), None) for names in (_TRAIN, _TEST)]
    if found[0] and found[1]:
        train, test = (read_coco(file, *_images(folder, name), masks=masks) for name, file in (found[0], found[1]))
        return train, test
    alone = os.path.join(folder, "annotations.json")
    if found[0] or found[1] or not os.path.exists(alone):
        wanted = "train" if found[1] else "val" if found[0] else "annotations.json, or train and val"
        tried = "annotations/instances_NAME.json, annotations/NAME.json, NAME/_annotations.coco.json, NAME.json"
        raise UserError(f"{folder} has no annotations of {wanted}; for a part NAME they are looked for as {tried}")
    return _split(read_coco(alone, *_images(folder, "images"), masks=masks), config.test_fraction)


def _annotations(folder: str, names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Parts whose annotation file exists, with that file."""
    for name in names:
        for form in (
            f"annotations/instances_{name}.json",
            f"annotations/{name}.json",
            f"{name}/_annotations.coco.json",
            f"{name}.json",
        ):
            path = os.path.join(folder, form)
            if os.path.exists(path):
                yield name, path


def _images(folder: str, name: str) -> list[str]:
    """The folders in which the images of a part may be."""
    return [os.path.join(folder, "images", name), os.path.join(folder, name), os.path.join(folder, "images"), folder]


def _split(images: ObjectImages, test_fraction: float) -> tuple[ObjectImages, ObjectImages]:
    """Two parts, always the same ones."""
    count = round(test_fraction * len(images))
    if not 0 < count < len(images):
        raise UserError(
            f"{images.source}: test_fraction={test_fraction} of {len(images)} images leaves none for training or test"
        )
    order = np.random.default_rng(0).permutation(len(images))
    train, test = (images.select(np.sort(part).tolist()) for part in (order[count:], order[:count]))
    return train, dataclasses.replace(test, left_out={})  # it is said once


def _voc(folder: str, config: DataConfig, masks: bool) -> tuple[ObjectImages, ObjectImages]:
    """VOC2007 and VOC2012 below a folder, or the folder of one year.

    Training: trainval of all years; test: test of the first one. Where it has no test: its train and val.
    """
    if masks:
        raise UserError(f"data.source={config.source!r} has boxes but no masks: take a detector without masks")
    below = [os.path.join(folder, year) for year in ("VOC2007", "VOC2012")]
    first, *others = [year for year in below if os.path.isdir(year)] or [folder]
    has_test = os.path.exists(os.path.join(first, "ImageSets", "Main", "test.txt"))
    train = read_voc([(first, "trainval" if has_test else "train"), *((year, "trainval") for year in others)])
    return train, read_voc([(first, "test" if has_test else "val")], train.class_names)


OBJECT_SOURCES: dict[str, Callable[[str, DataConfig, bool], tuple[ObjectImages, ObjectImages]]] = {
    "coco:PATH": _coco,
    "voc:PATH": _voc,
}
"""By the form of `data.source`: what opens its training and test images."""
