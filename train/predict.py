"""python -m train.predict --workdir RUN [--checkpoint best|last|STEP] [--out DIR] IMAGE..."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from attnjax.detection import Detections
from train.config.errors import UserError
from train.config.flags import parse, program
from train.data import read_input
from train.data.images import UnreadableImageError, read_image
from train.data.object_pipeline import padded_batch, padded_size, padded_sizes
from train.runs.record import LoadedRun, load_run, read_run
from train.tasks import task_of
from train.tasks.classification import CLASSIFICATION
from train.tasks.coco_results import pasted_masks
from train.tasks.pictures import DetectionWriter
from train.tasks.recipe import Run


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
    run = _run_of(workdir, detector=False)
    loaded = load_run(workdir, CLASSIFICATION, checkpoint)
    probabilities = jax.jit(partial(_probabilities, loaded))
    size = min(len(paths), run.config.data.batch_size)
    failures: list[str] = []
    read = partial(read_input, config=run.config.data, image_shape=run.image_shape)
    for pairs in _read_in_parts(paths, size, read, failures):
        images = np.zeros((size, *run.image_shape), np.uint8)
        for row, (_, image) in enumerate(pairs):
            images[row] = image
        for (path, _), shares in zip(pairs, np.asarray(probabilities(loaded.variables, images)), strict=False):
            yield Prediction(path, loaded.class_names[int(shares.argmax())], float(shares.max()))
    _raise(failures)


def _probabilities(loaded: LoadedRun, variables: Any, images: jax.Array) -> jax.Array:
    logits: Any = loaded.model.apply(variables, loaded.preprocess(images), train=False)
    return jax.nn.softmax(logits.astype(jnp.float32))


class DetectedObjects(NamedTuple):
    """The objects found in an image file, the most certain first.

    Attributes:
      path: the file.
      image: its pixels, uint8 (h, w, 3).
      boxes: x1, y1, x2, y2 in its pixels, float32 (k, 4).
      scores: float32 (k,).
      labels: classes from 0, int32 (k,).
      class_names: the name of the class of each object.
      masks: bool (k, h, w); None for detectors without masks.
    """

    path: str
    image: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    masks: np.ndarray | None


def detect(
    workdir: str, paths: Sequence[str], checkpoint: str = "last", min_score: float = 0.5
) -> Iterator[DetectedObjects]:
    """Detects objects in image files with the detector of a run.

    Args:
      workdir: the run's folder.
      paths: image files of any size. They are resized as the run's test images are.
      checkpoint: `last`, `best` or a step.
      min_score: objects of lower scores are left out.

    Yields:
      The objects of each file that can be read, in order.

    Raises:
      UserError: the folder does not hold a run of a detector; or, after all others, files could not be read.
    """
    run = _run_of(workdir, detector=True)
    loaded = load_run(workdir, task_of(run.config), checkpoint)
    found_in = jax.jit(partial(_detections, loaded))
    size = min(len(paths), run.config.data.batch_size)
    failures: list[str] = []
    read = partial(read_image, apply_exif_orientation=run.config.data.apply_exif_orientation)
    for images in _read_in_parts(paths, size, read, failures):
        rows: dict[int, DetectedObjects] = {}
        for padded in padded_sizes(run.config):
            chosen = [
                number for number, (_, image) in enumerate(images) if padded == padded_size(run.config, image.shape[:2])
            ]
            if not chosen:
                continue
            batch = padded_batch(run.config, [images[number][1] for number in chosen], padded, size)
            found = jax.device_get(found_in(loaded.variables, *batch))
            for row, number in enumerate(chosen):
                rows[number] = _objects(*images[number], jax.tree.map(lambda x, row=row: x[row], found), run, min_score)
        yield from (rows[number] for number in range(len(images)))
    _raise(failures)


def _detections(
    loaded: LoadedRun, variables: Any, images: jax.Array, sizes: jax.Array, original_sizes: jax.Array
) -> Detections:
    found: Any = loaded.model.apply(variables, loaded.preprocess(images), sizes, original_sizes, method="predict")
    return found


def _objects(path: str, image: np.ndarray, found: Any, run: Run, min_score: float) -> DetectedObjects:
    """The objects of one image, from its row of the detections."""
    kept = np.arange(len(found.scores)) < min(int(found.count), int((found.scores >= min_score).sum()))
    masks = None
    if found.masks is not None:
        masks = pasted_masks(found.masks[kept], found.original_boxes[kept], (image.shape[0], image.shape[1]))
    labels = found.classes[kept]
    names = tuple(run.class_names[label] for label in labels)
    return DetectedObjects(path, image, found.original_boxes[kept], found.scores[kept], labels, names, masks)


def _run_of(workdir: str, detector: bool) -> Run:
    run = read_run(workdir)
    if run.config.model.is_detector != detector:
        kind, function = ("a detector", "detect") if run.config.model.is_detector else ("a classifier", "predict")
        raise UserError(f"{workdir} holds {kind}, {run.config.model.name}: use train.predict.{function}")
    return run


def _read_in_parts(
    paths: Sequence[str], size: int, read: Callable[[str], np.ndarray], failures: list[str]
) -> Iterator[list[tuple[str, np.ndarray]]]:
    """Yields the image files that can be read of each `size` files; `failures` gets a line for each of the others."""
    for start in range(0, len(paths), size or 1):
        pairs = []
        for path in paths[start : start + size]:
            try:
                pairs.append((path, read(path)))
            except UnreadableImageError as error:
                failures.append(str(error))
        yield pairs


def _raise(failures: Sequence[str]) -> None:
    """Raises one UserError for all failures, if there are any."""
    if failures:
        more = f", and {len(failures) - 3} more" if len(failures) > 3 else ""
        raise UserError("; ".join(failures[:3]) + more)


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Classifies image files with the net of a run, or detects objects in them.

    Prints PATH, CLASS and PROBABILITY separated by tabs; for a detector a line for each object, with its box x1, y1,
    x2, y2 in pixels.
    """

    images: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE ...")]
    """Image files: JPEG, PNG or WebP, at least one."""
    workdir: str
    """Folder of the run."""
    checkpoint: str = "last"
    """`last`, `best` (the highest test score) or a step."""
    out: str | None = None
    """Detectors: folder for a picture of each image with boxes and masks, and predictions.json in COCO's format."""
    min_score: float | None = None
    """Detectors: objects of lower scores are left out; default 0.5. Those below the net's `score_threshold`, 0.05, are
    never found."""


def main(arguments: Sequence[str]) -> None:
    """Reads the flags and prints a line for each image or object."""
    parsed = parse(Arguments, arguments, prog="python -m train.predict")
    if not parsed.images:
        raise UserError("give at least one image file")
    if read_run(parsed.workdir).config.model.is_detector:
        _print_objects(parsed)
        return
    for name in ("out", "min_score"):
        if getattr(parsed, name) is not None:
            raise UserError(f"--{name} is for detectors: {parsed.workdir} holds a classifier")
    for path, class_name, probability in predict(parsed.workdir, parsed.images, parsed.checkpoint):
        print(f"{path}\t{class_name}\t{probability:.4f}", flush=True)


def _print_objects(parsed: Arguments) -> None:
    min_score = 0.5 if parsed.min_score is None else parsed.min_score
    if not 0 <= min_score <= 1:
        raise UserError(f"--min_score={min_score} must be from 0 to 1")
    names = read_run(parsed.workdir).class_names
    writer = None if parsed.out is None else DetectionWriter(parsed.out, names, parsed.images)
    try:
        for found in detect(parsed.workdir, parsed.images, parsed.checkpoint, min_score):
            for name, score, box in zip(found.class_names, found.scores, found.boxes, strict=True):
                corners = "\t".join(f"{side:.1f}" for side in box)
                print(f"{found.path}\t{name}\t{score:.4f}\t{corners}", flush=True)
            if not len(found.boxes):
                print(f"note: no object of score {min_score} or higher in {found.path}", file=sys.stderr)
            if writer is not None:
                writer.add(found.path, found.image, found.boxes, found.scores, found.labels, found.masks)
    finally:
        if writer is not None:
            writer.close()


if __name__ == "__main__":
    program(main)
