"""python -m train.explain --workdir RUN [--compare RUN ...] [--layer LAYER] [--method grad_cam] [IMAGE ...]"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Literal

from train.cli import parse, program  # first: it checks the extra

# isort: split
import jax
import jax.numpy as jnp
import numpy as np
import tyro

from attnjax.explain import Column, gallery, grad_cam
from train.data import Reader, evaluation_transform, open_dataset
from train.errors import UserError
from train.files import replacing
from train.predict import prepare
from train.run import LoadedRun, Run, load_run, read_run


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Draws where the nets of runs look: images, and beside them the class activation maps of each run."""

    images: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE ...")]
    """Image files: JPEG, PNG or WebP. None takes test images of the run, evenly spaced."""
    workdir: str
    """Folder of the run."""
    compare: Annotated[tuple[str, ...], tyro.conf.arg(metavar="RUN ...")] = ()
    """Folders of other runs on the same classes and images of the same size."""
    checkpoint: str = "last"
    """`last`, `best` (the highest test accuracy) or a step, of every run."""
    count: int = 8
    """Test images to take."""
    layer: str | None = None
    """Whose map it is, see `attnjax.explain.grad_cam`; None takes the last one of the net's `features`."""
    method: str = "grad_cam"
    """How the map is made, see `attnjax.explain.grad_cam`."""
    target: Literal["label", "prediction"] = "label"
    """The class that is explained: that of the image, or the net's own answer; files have the latter alone."""
    out: str | None = None
    """PNG file to write; None is explain.png in the run's folder."""


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Images as the nets see them, uint8 (b, h, w, c), with their labels where they have some."""

    images: np.ndarray
    labels: np.ndarray | None
    names: Sequence[str]


def held_out(run: Run, count: int) -> Pictures:
    """So many test images of a run, evenly spaced."""
    dataset = open_dataset(run.config.data)
    reader = Reader(dataset.test, run.config.data, run.image_shape)
    places = np.unique(np.linspace(0, len(reader) - 1, count).round().astype(int))
    examples = [reader[int(place)] for place in places]
    images = [evaluation_transform(run.config.data, example["image"]) for example in examples]
    labels = np.array([example["label"] for example in examples])
    return Pictures(np.stack(images), labels, [run.class_names[label] for label in labels])


def files(run: Run, paths: Sequence[str]) -> Pictures:
    """Image files, as `train.predict` reads them."""
    return Pictures(np.stack([prepare(run, path) for path in paths]), None, [os.path.basename(path) for path in paths])


def column(title: str, loaded: LoadedRun, pictures: Pictures, arguments: Arguments) -> Column:
    """Maps of a run, with the class that they are of and its probability.

    Raises:
      UserError: the net has no such layer, or there is no such method.
    """
    model, images = loaded.model, loaded.preprocess(jnp.asarray(pictures.images))
    layer = arguments.layer or _last(loaded, images)
    logits = jax.jit(partial(model.apply, train=False))(loaded.variables, images)
    by_label = arguments.target == "label" and pictures.labels is not None
    classes = jnp.asarray(pictures.labels) if by_label else jnp.argmax(logits, -1)
    explain = jax.jit(partial(grad_cam, model, layer=layer, method=arguments.method))
    try:
        maps = explain(loaded.variables, images, target=classes).map
    except ValueError as error:
        raise UserError(str(error)) from error
    shares = np.asarray(jax.nn.softmax(logits.astype(jnp.float32)))
    told = [
        f"{loaded.class_names[label]} {row[label]:.2f}" for label, row in zip(classes.tolist(), shares, strict=True)
    ]
    return Column(title, maps, told)


def _last(loaded: LoadedRun, images: jax.Array) -> str:
    """The last key of the net's features."""
    features = partial(loaded.model.apply, train=False, method="features")
    return list(jax.eval_shape(features, loaded.variables, images))[-1]


def main(arguments: Sequence[str]) -> None:
    """Reads the flags and writes the picture."""
    parsed = parse(Arguments, arguments, prog="python -m train.explain")
    if parsed.count < 1:
        raise UserError(f"--count={parsed.count} must be at least 1")
    run = read_run(parsed.workdir)
    pictures = files(run, parsed.images) if parsed.images else held_out(run, parsed.count)
    columns = []
    for workdir in (parsed.workdir, *parsed.compare):
        other = read_run(workdir)
        for what in ("class_names", "image_shape"):
            if getattr(other, what) != getattr(run, what):
                raise UserError(f"{workdir} has other {what} than {parsed.workdir}: {getattr(other, what)}")
        columns.append(
            column(os.path.basename(os.path.normpath(workdir)), load_run(workdir, parsed.checkpoint), pictures, parsed)
        )
    figure = gallery(jnp.asarray(pictures.images), columns, pictures.names)
    out = parsed.out or os.path.join(parsed.workdir, "explain.png")
    try:
        with replacing(out) as path:
            figure.savefig(path, format="png", dpi=150)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}") from error
    print(out)


if __name__ == "__main__":
    program(main)
