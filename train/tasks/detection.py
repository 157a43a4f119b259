"""Object detection and instance segmentation, the task of runs whose net is a detector."""

from __future__ import annotations

import csv
import dataclasses
import importlib.util
import itertools
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import flax.linen as nn
import grain
import jax
import jax.numpy as jnp

import attnjax
from attnjax.detection import (
    COCO_METRICS,
    MaskRCNN,
    RCNNLoss,
    RetinaLoss,
    RetinaNet,
    coco_evaluation,
    create_detector,
)
from attnjax.layers import BatchNorm
from attnjax.training import Normalize
from train.config import Config, DataConfig
from train.config.atomic import replacing
from train.config.errors import UserError
from train.data import Batch, Dataset
from train.data.object_pipeline import ObjectReader, evaluation_objects, padded_sizes, training_objects
from train.data.object_sources import open_objects
from train.data.objects import ObjectImages
from train.hosts.processes import is_first
from train.tasks.coco_results import Evaluation, coco_results, voc_metrics
from train.tasks.recipe import Run
from train.tasks.task import Column, Objective, mean

_UNUSED = (
    "augmentation",
    "rotate",
    "color_jitter",
    "rand_augment_layers",
    "mixup",
    "cutmix",
    "label_noise",
    "image_size",
    "resize",
    "channels",
)
"""Settings of the data that detectors do not use."""


@dataclasses.dataclass(frozen=True)
class Detection:
    """Detection of objects, and their masks with Mask R-CNN; see `train.tasks.task.Task` for the methods."""

    score: ClassVar[str] = "AP"
    headlines: ClassVar[Mapping[str, str]] = {"loss": "loss", "AP": "AP", "AP50": "AP50", "mask_AP": "mask AP"}
    columns: ClassVar[Sequence[Column]] = (
        Column("ap", "AP", "box AP, %", 1, lambda value: 100 * value),
        Column("ap50", "AP50", "box AP50, %", 1, lambda value: 100 * value),
        Column("mask_ap", "mask_AP", "mask AP, %", 1, lambda value: 100 * value),
        Column("mask_ap50", "mask_AP50", "mask AP50, %", 1, lambda value: 100 * value),
        Column("loss", "loss", "loss", 4),
    )
    outputs: ClassVar[Sequence[str] | None] = ("index",)

    def open(self, config: Config) -> Dataset:
        if importlib.util.find_spec("faster_coco_eval") is None:
            raise UserError("detectors are evaluated by faster-coco-eval: pip install -e '.[train,detection]'")
        dataset = open_objects(config.data, masks=has_masks(config))
        for split in (dataset.train, dataset.test):
            if not any(len(image.labels) for image in split.images):
                raise UserError(f"{split.source} has no objects in {len(split)} images")
        if is_first():
            _print_notes(config, dataset.train, dataset.test)
        return dataset

    def define(self, config: Config, dataset: Dataset) -> Run:
        _check_unused(config)
        classes = len(dataset.class_names)
        if config.model.num_classes not in (None, classes):
            raise UserError(
                f"model.num_classes={config.model.num_classes}, but {config.data.source} has {classes} classes"
            )
        return Run(config, dataset.class_names, self.image_shape(config), len(dataset.train))

    def image_shape(self, config: Config) -> tuple[int, int, int]:
        return *padded_sizes(config)[0], 3

    def model(self, run: Run, norm: Mapping[str, Any] | None = None) -> nn.Module:
        settings = run.config.model
        return create_detector(
            settings.name,
            num_classes=len(run.class_names),
            dtype=jnp.dtype(settings.dtype),
            norm=attnjax.Partial(BatchNorm, **(norm or {})),
            **settings.options,
        )

    def objective(self, run: Run, model: nn.Module) -> Objective:
        data, kind = run.config.data, RetinaLoss if isinstance(model, RetinaNet) else RCNNLoss
        try:
            loss: Any = kind(**run.config.detection.loss)
        except (TypeError, ValueError) as error:
            raise UserError(f"detection.loss: {error}") from error
        return Objective(loss, loss, Normalize(data.mean, data.std), frozen=getattr(model, "frozen", None))

    def abstract_batch(self, run: Run) -> dict[str, jax.ShapeDtypeStruct]:
        size, (height, width, _), settings = run.config.data.batch_size, run.image_shape, run.config.detection
        of = jax.ShapeDtypeStruct
        batch = {
            "image": of((size, *run.image_shape), jnp.uint8),
            "size": of((size, 2), jnp.int32),
            "original_size": of((size, 2), jnp.int32),
            "boxes": of((size, settings.max_objects, 4), jnp.float32),
            "label": of((size, settings.max_objects), jnp.int32),
            "present": of((size, settings.max_objects), jnp.bool_),
            "mask": of((size,), jnp.bool_),
        }
        if has_masks(run.config):
            stride = settings.mask_stride
            batch["masks"] = of((size, settings.max_objects, height // stride, width // stride), jnp.uint8)
        return batch

    def training_images(self, run: Run, dataset: Dataset) -> ObjectReader:
        return ObjectReader(dataset.train, run.config, has_masks(run.config))

    def test_images(self, run: Run, dataset: Dataset) -> ObjectReader:
        return ObjectReader(dataset.test, run.config, has_masks(run.config))

    def training_batches(self, run: Run, images: ObjectReader, process: tuple[int, int]) -> grain.DatasetIterator:
        return training_objects(images, process)

    def evaluation_batches(self, run: Run, images: ObjectReader, process: tuple[int, int]) -> Iterator[Batch]:
        return evaluation_objects(images, process)

    def figures(self, sums: Mapping[str, Any]) -> dict[str, float]:
        names = ["loss", *sorted(set(sums) - {"loss", "count"})]
        return {name: mean(sums, name) for name in names}

    def evaluation(
        self, run: Run, images: ObjectReader, sums: Mapping[str, Any], outputs: Sequence[tuple[Any, Batch]]
    ) -> Evaluation:
        if not int(sums["count"]):
            raise UserError(f"none of the {len(images)} images of {images.split.source} can be decoded")
        split = images.split
        results: list[dict[str, Any]] = []
        for found, batch in outputs:
            seen = [split.images[index] for index in batch["index"]]
            sizes, names = [image.size for image in seen], [image.image_id for image in seen]
            results += coco_results(found, sizes, names, split.category_ids)
        seen = sorted(itertools.chain.from_iterable(batch["index"].tolist() for _, batch in outputs))
        truth = split.ground_truth if len(seen) == len(split) else split.select(seen).ground_truth
        return Evaluation(
            losses=self.figures(sums),
            count=len(seen),
            class_names=run.class_names,
            results=results,
            boxes=coco_evaluation(truth, results, "bbox"),
            masks=coco_evaluation(truth, results, "segm") if images.masks else None,
            voc=voc_metrics(truth, results) if run.config.data.source.startswith("voc:") else {},
        )

    def lines(self, evaluation: Evaluation) -> list[str]:
        """The losses, COCO's numbers of boxes and masks in one table, those of each class in another, and AP."""
        losses = ", ".join(f"{name} {value:.4f}" for name, value in evaluation.losses.items())
        figures, masks = evaluation.figures(), evaluation.masks is not None
        totals = [
            [name, *(_percent(figures.get(f"{of}{name}")) for of in (("", "mask_") if masks else ("",)))]
            for name in (*COCO_METRICS, *evaluation.voc)
        ]
        classes = [[row["class"], *(_percent(row[name]) for name in list(row)[1:])] for row in evaluation.per_class()]
        names = [name.replace("_", " ") for name in list(evaluation.per_class()[0])[1:]]
        return [
            f"{losses}; {evaluation.count} images",
            *_aligned([["%", "boxes", "masks"][: 2 + masks], *totals]),
            *_aligned([["class, %", *names], *classes]),
            f"test_AP={figures['AP']:.4f}",
        ]

    def write(self, workdir: str, run: Run, evaluation: Evaluation) -> None:
        """Writes detections.json, COCO's results, and per_class.csv."""
        with replacing(os.path.join(workdir, "detections.json")) as path, open(path, "w") as file:
            json.dump(evaluation.results, file)
        rows = evaluation.per_class()
        with replacing(os.path.join(workdir, "per_class.csv")) as path, open(path, "w", errors="replace") as file:
            table = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            table.writeheader()
            table.writerows(rows)


def _percent(value: float | None) -> str:
    return "-" if value is None or value < 0 else f"{100 * value:.1f}"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of a table with columns of equal width, the first flush left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]


def has_masks(config: Config) -> bool:
    """Whether the detector of a run has masks."""
    return isinstance(create_detector(config.model.name), MaskRCNN)


def _check_unused(config: Config) -> None:
    """Raises UserError if settings are given that a detector does not use."""
    unused, net = DataConfig(augmentation="none"), config.model.name
    for name in _UNUSED:
        value, wanted = getattr(config.data, name), getattr(unused, name)
        if value != wanted:
            raise UserError(f"data.{name}={value!r} must be {wanted!r} for the detector {net}")
    for setting, value in (("label_smoothing", config.label_smoothing), ("ggam.weight", config.ggam.weight)):
        if value:
            raise UserError(f"{setting}={value} must be 0 for the detector {net}")


def _print_notes(config: Config, train: ObjectImages, test: ObjectImages) -> None:
    """Prints what was left out of the images, and what will not be seen in training."""
    train.print_notes()
    test.print_notes()
    most = config.detection.max_objects
    beyond = [len(image.labels) - most for image in train.images if len(image.labels) > most]
    if beyond:
        text = f"{sum(beyond)} objects of {len(beyond)} images are beyond detection.max_objects={most}"
        print(f"note: {train.source}: {text}; the largest are kept", file=sys.stderr)


DETECTION = Detection()
