"""python -m train.predict --workdir RUN [--checkpoint best|last|STEP] IMAGE..."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from train.config.errors import UserError
from train.config.flags import parse, program
from train.data import read_input
from train.data.images import UnreadableImageError
from train.runs.record import LoadedRun, load_run, read_run
from train.tasks.classification import CLASSIFICATION


class Prediction(NamedTuple):
    """The most probable class of an image file, and its softmax probability."""

    path: str
    class_name: str
    probability: float


def predict(workdir: str, paths: Sequence[str], checkpoint: str = "last") -> Iterator[Prediction]:
    """Classifies image files with the net of a run.

    Args:
      workdir: the run's folder.
      paths: image files. They are preprocessed like the run's test images; if those kept their own size, the files are
        resized to cover it and centre-cropped.
      checkpoint: `last`, `best` or a step.

    Yields:
      A prediction for each file that can be read, in order.

    Raises:
      UserError: the folder does not hold a run; or, after all other predictions, files could not be read.
    """
    run = read_run(workdir)
    loaded = load_run(workdir, CLASSIFICATION, checkpoint)
    probabilities = jax.jit(partial(_probabilities, loaded))
    size = min(len(paths), run.config.data.batch_size)
    failures: list[str] = []
    for start in range(0, len(paths), size or 1):
        images = np.zeros((size, *run.image_shape), np.uint8)
        readable: list[str] = []
        for path in paths[start : start + size]:
            try:
                images[len(readable)] = read_input(path, run.config.data, run.image_shape)
                readable.append(path)
            except UnreadableImageError as error:
                failures.append(str(error))
        for path, row in zip(readable, np.asarray(probabilities(loaded.variables, images)), strict=False):
            yield Prediction(path, loaded.class_names[int(row.argmax())], float(row.max()))
    if failures:
        more = f", and {len(failures) - 3} more" if len(failures) > 3 else ""
        raise UserError("; ".join(failures[:3]) + more)


def _probabilities(loaded: LoadedRun, variables: Any, images: jax.Array) -> jax.Array:
    logits: Any = loaded.model.apply(variables, loaded.preprocess(images), train=False)
    return jax.nn.softmax(logits.astype(jnp.float32))


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Classifies image files with the net of a run, and prints PATH, CLASS and PROBABILITY separated by tabs."""

    images: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE ...")]
    """Image files: JPEG, PNG or WebP, at least one."""
    workdir: str
    """Folder of the run."""
    checkpoint: str = "last"
    """`last`, `best` (the highest test accuracy) or a step."""


def main(arguments: Sequence[str]) -> None:
    """Reads the flags and prints a line for each image."""
    parsed = parse(Arguments, arguments, prog="python -m train.predict")
    if not parsed.images:
        raise UserError("give at least one image file")
    for path, class_name, probability in predict(parsed.workdir, parsed.images, parsed.checkpoint):
        print(f"{path}\t{class_name}\t{probability:.4f}", flush=True)


if __name__ == "__main__":
    program(main)
