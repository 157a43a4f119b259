"""python -m train.explain --workdir RUN [--compare RUN ...] [--method grad_cam | --scores] [IMAGE ...]"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from attnjax.explain import METHODS, Column, gallery, grad_cam
from train.config.atomic import replacing
from train.config.errors import UserError
from train.config.flags import parse, program
from train.data import evaluation_transform, read_input
from train.data.canvas import canvas_boxes
from train.runs.record import LoadedRun, load_run, open_dataset_of, read_run
from train.tasks.classification import CLASSIFICATION
from train.tasks.faithfulness import score_maps
from train.tasks.recipe import Run


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Draws images beside the class activation maps of one or more runs, or scores the maps of every method."""

    images: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE ...")]
    """Image files: JPEG, PNG or WebP; default evenly spaced test images of the run."""
    workdir: str
    """Folder of the run."""
    compare: Annotated[tuple[str, ...], tyro.conf.arg(metavar="RUN ...")] = ()
    """Folders of further runs with the same classes and image size."""
    checkpoint: str = "last"
    """`last`, `best` (the highest test accuracy) or a step, for every run."""
    count: int | None = None
    """Number of test images; default 8 to draw and 256 to score."""
    layer: str | None = None
    """Layer to explain, see `attnjax.explain.grad_cam`; default the last one of the net's `features`."""
    method: Annotated[str, tyro.conf.arg(help=f"Class activation method: {', '.join(METHODS)}.")] = "grad_cam"
    target: Literal["label", "prediction"] = "label"
    """Class to explain: the label or the net's prediction; image files always use the prediction."""
    scores: tyro.conf.FlagCreatePairsOff[bool] = False
    """Instead of drawing, score the faithfulness of all methods by insertion, deletion, ROAD and, if boxes are known,
    the pointing game; print the scores and write them to explain_scores.json in each run's folder."""
    out: str | None = None
    """PNG file to write; default explain.png in the run's folder."""


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Preprocessed images, uint8 (b, h, w, c), with labels and object boxes where known."""

    images: np.ndarray
    labels: np.ndarray | None
    boxes: np.ndarray | None
    names: Sequence[str]


def held_out(run: Run, count: int) -> Pictures:
    """Returns `count` evenly spaced test images of a run."""
    dataset = open_dataset_of(run, CLASSIFICATION)
    reader = CLASSIFICATION.test_images(run, dataset)
    indices = np.unique(np.linspace(0, len(reader) - 1, count).round().astype(int))
    examples = [reader[int(index)] for index in indices]
    readable = [bool(example["mask"]) for example in examples]
    if not all(readable):
        print(f"note: {readable.count(False)} of {len(examples)} images cannot be decoded: left out", file=sys.stderr)
        examples, indices = list(itertools.compress(examples, readable)), indices[readable]
    images = [evaluation_transform(run.config.data, example["image"]) for example in examples]
    labels = np.array([example["label"] for example in examples])
    boxes = canvas_boxes(dataset.test) if run.config.data.image_size is None else None
    boxes = None if boxes is None else boxes[indices]
    return Pictures(np.stack(images), labels, boxes, [run.class_names[label] for label in labels])


def files(run: Run, paths: Sequence[str]) -> Pictures:
    """Reads image files as `train.predict` does."""
    images = np.stack([read_input(path, run.config.data, run.image_shape) for path in paths])
    return Pictures(images, None, None, [os.path.basename(path) for path in paths])


def column(title: str, loaded: LoadedRun, pictures: Pictures, arguments: Arguments) -> Column:
    """Computes the maps of a run, labelled with the explained class and its probability.

    Raises:
      UserError: the layer or the method is unknown.
    """
    model, images = loaded.model, loaded.preprocess(jnp.asarray(pictures.images))
    layer = arguments.layer or _last(loaded, images)
    logits = _logits(loaded, pictures.images)
    labels = _labels(pictures, arguments)
    classes = logits.argmax(-1) if labels is None else labels
    explain = jax.jit(partial(grad_cam, model, layer=layer, method=arguments.method))
    try:
        maps = explain(loaded.variables, images, target=classes).map
    except ValueError as error:
        raise UserError(str(error)) from error
    shares = np.asarray(jax.nn.softmax(logits))
    captions = [
        f"{loaded.class_names[label]} {row[label]:.2f}" for label, row in zip(classes.tolist(), shares, strict=True)
    ]
    return Column(f"{title}\n{arguments.method}, {layer}", maps, captions)


def scores(loaded: LoadedRun, pictures: Pictures, arguments: Arguments) -> dict[str, Any]:
    """Scores the maps of all methods for faithfulness, and returns the scores with their settings.

    Raises:
      UserError: the net has no such layer.
    """
    layer = arguments.layer or _last(loaded, loaded.preprocess(jnp.asarray(pictures.images[:1])))
    labels, boxes = _labels(pictures, arguments), pictures.boxes
    classes = _logits(loaded, pictures.images).argmax(-1) if labels is None else labels
    try:
        table = score_maps(
            loaded.model, loaded.variables, loaded.preprocess, pictures.images, classes, boxes, layer=layer
        )
    except ValueError as error:
        raise UserError(str(error)) from error
    target = "prediction" if pictures.labels is None else arguments.target
    settings = {"layer": layer, "target": target, "images": len(classes), "checkpoint": arguments.checkpoint}
    if boxes is not None:
        sizes = boxes[:, 2:] - boxes[:, :2]
        settings["box_share"] = float(np.mean(sizes.prod(-1)) / np.prod(pictures.images.shape[1:3]))
    return {**settings, "scores": table}


def titles(workdirs: Sequence[str]) -> list[str]:
    """The shortest distinct path suffixes of the folders."""
    parts = [os.path.abspath(workdir).split(os.sep) for workdir in workdirs]
    ends = [["/".join(path[-depth:]) for path in parts] for depth in range(1, max(map(len, parts)) + 1)]
    return next((names for names in ends if len(set(names)) == len(names)), ends[0])


def _logits(loaded: LoadedRun, images: np.ndarray, batch_size: int = 64) -> np.ndarray:
    """Logits of all images, (b, n)."""
    predict = jax.jit(partial(loaded.model.apply, train=False))
    batches = (images[start : start + batch_size] for start in range(0, len(images), batch_size))
    logits = [predict(loaded.variables, loaded.preprocess(jnp.asarray(batch))) for batch in batches]
    return np.concatenate([np.asarray(part, np.float32) for part in logits])


def _labels(pictures: Pictures, arguments: Arguments) -> np.ndarray | None:
    """The labels if they are to be explained, or None."""
    return pictures.labels if arguments.target == "label" else None


def _last(loaded: LoadedRun, images: jax.Array) -> str:
    """The last key of the net's `features`."""
    features = partial(loaded.model.apply, train=False, method="features")
    return list(jax.eval_shape(features, loaded.variables, images))[-1]


def print_scores(workdir: str, found: dict[str, Any]) -> None:
    """Prints scores as a table and writes them to explain_scores.json in the run's folder."""
    names = list(next(iter(found["scores"].values())))
    share = f", boxes cover {found['box_share']:.1%}" if "box_share" in found else ""
    print(f"{workdir}: {found['images']} images, {found['layer']}, class by {found['target']}{share}")
    print("| method | " + " | ".join(name.replace("_", " ") for name in names) + " |")
    print("| --- " * (len(names) + 1) + "|")
    for method, values in found["scores"].items():
        print(f"| {method} | " + " | ".join(f"{values[name]:.3f}" for name in names) + " |")
    out = os.path.join(workdir, "explain_scores.json")
    with _writing(out) as path, open(path, "w") as file:
        json.dump(found, file, indent=2)
    print(out)


@contextlib.contextmanager
def _writing(out: str) -> Iterator[str]:
    try:
        with replacing(out) as path:
            yield path
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}") from error


def main(arguments: Sequence[str]) -> None:
    """Reads the flags and writes the picture or the scores."""
    parsed = parse(Arguments, arguments, prog="python -m train.explain", switches=True)
    count = parsed.count if parsed.count is not None else 256 if parsed.scores else 8
    if count < 1:
        raise UserError(f"--count={count} must be at least 1")
    if parsed.images and parsed.count is not None:
        raise UserError(f"--count={parsed.count} is the number of test images: omit it with image files")
    if parsed.scores and (parsed.out is not None or parsed.method != Arguments.method):
        raise UserError("--scores uses all methods and writes explain_scores.json: omit --method and --out")
    run = read_run(parsed.workdir)
    if run.config.model.is_detector:
        raise UserError(f"{parsed.workdir} holds a detector, {run.config.model.name}: only classifiers are explained")
    pictures = files(run, parsed.images) if parsed.images else held_out(run, count)
    workdirs = (parsed.workdir, *parsed.compare)
    for workdir in workdirs:
        other = read_run(workdir)
        for what in ("class_names", "image_shape"):
            if getattr(other, what) != getattr(run, what):
                raise UserError(f"{workdir} has other {what} than {parsed.workdir}: {getattr(other, what)}")
    if parsed.scores:
        for workdir in workdirs:
            print_scores(workdir, scores(load_run(workdir, CLASSIFICATION, parsed.checkpoint), pictures, parsed))
        return
    columns = [
        column(title, load_run(workdir, CLASSIFICATION, parsed.checkpoint), pictures, parsed)
        for title, workdir in zip(titles(workdirs), workdirs, strict=True)
    ]
    figure = gallery(jnp.asarray(pictures.images), columns, pictures.names)
    out = parsed.out or os.path.join(parsed.workdir, "explain.png")
    with _writing(out) as path:
        figure.savefig(path, format="png", dpi=150)
    print(out)


if __name__ == "__main__":
    program(main)
