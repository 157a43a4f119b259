"""python -m train.prepare [NAME] [--from DIR] [--data_dir DIR]

ImageNet needs no preparation: unpack it into train and val with a folder for each class, and use `folder:DIR`.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import tensorflow_datasets as tfds
import tyro

from train.config.errors import UserError, nearest
from train.config.flags import parse, program
from train.data.archives import ARCHIVES, Archive, Contents, Part, describe
from train.data.prepared import tfds_folder


class _Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Writes the contents of an archive as a TFDS data set. Images are encoded already, so TensorFlow is not needed."""

    __module__ = "train.prepare"  # TFDS records it; the module of the program is __main__
    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, name: str, archive: Archive, contents: Contents, folder: str) -> None:
        self.name, self._archive, self._contents = name, archive, contents
        super().__init__(data_dir=folder, file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        shape = self._archive.shape
        features = {
            "image": tfds.features.Image(shape=shape, encoding_format="png" if shape[0] else "jpeg"),
            "label": tfds.features.ClassLabel(names=self._contents.class_names),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {split: self._generate_examples(getattr(self._contents, split)) for split in ("train", "test")}

    def _generate_examples(self, part: Part) -> Iterator[tuple[int, dict[str, Any]]]:
        for index, label in enumerate(part.labels):
            yield index, {"image": io.BytesIO(part.read(index)), "label": label}


def prepare(name: str, source: str, data_dir: str | None = None) -> str:
    """Prepares a data set for `tfds:NAME` from its original files; does nothing if it is prepared already.

    Args:
      name: one of `train.data.archives.ARCHIVES`.
      source: folder of the unpacked files.
      data_dir: folder of the prepared sets; None is $TFDS_DATA_DIR or ~/tensorflow_datasets.

    Returns:
      A line that describes the prepared data set.

    Raises:
      UserError: the name is unknown, or files are missing or damaged.
    """
    archive, folder = _archive(name), tfds_folder(data_dir)
    builder = _Builder(name, archive, archive.open(source), folder)
    if builder.is_prepared():
        return f"tfds:{name} is prepared already in {builder.data_path}: delete it to prepare it again"
    print(f"writing to {folder}", flush=True)
    tfds.disable_progress_bar()
    try:
        builder.download_and_prepare()
    except (OSError, ValueError) as error:
        raise UserError(f"cannot prepare {name} from {source}: {describe(error)}") from error
    train, test = (builder.info.splits[split].num_examples for split in ("train", "test"))
    classes = builder.info.features["label"].num_classes
    return f"tfds:{name} in {folder}: {train} training images, {test} test images, {classes} classes"


def requirements(name: str) -> str:
    """Describes the files that `prepare` needs for a data set, and where to get them.

    Raises:
      UserError: the name is unknown.
    """
    archive = _archive(name)
    train, test = archive.counts
    return "\n".join(
        (
            f"{name}: {train:,} training and {test:,} test images",
            f"  get {archive.source}",
            f"  DIR must contain {', '.join(archive.files)}",
            f"  python -m train.prepare {name} --from DIR",
        )
    )


def _archive(name: str) -> Archive:
    if name not in ARCHIVES:
        raise UserError(f"NAME={name!r} must be one of {', '.join(ARCHIVES)}{nearest(name, ARCHIVES)}")
    return ARCHIVES[name]


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Prepares a data set for `--data.source tfds:NAME` from its original files, without TensorFlow.

    Without --from, lists the required files and where to get them; without NAME, for all data sets.
    """

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")] = ""
    """fashion_mnist, cifar10, cifar100, caltech_birds2011, cars196 or fgvc_aircraft."""
    source: Annotated[str | None, tyro.conf.arg(name="from", metavar="DIR")] = None
    """Folder of the unpacked files."""
    data_dir: str | None = None
    """Folder of the prepared data sets; default $TFDS_DATA_DIR or ~/tensorflow_datasets."""


def main(arguments: Sequence[str]) -> None:
    """Reads the flags and prepares a data set, or lists the required files."""
    parsed = parse(Arguments, arguments, prog="python -m train.prepare")
    if parsed.source is not None:
        print(prepare(parsed.name, parsed.source, parsed.data_dir))
    else:
        print("\n\n".join(requirements(name) for name in ([parsed.name] if parsed.name else ARCHIVES)))


if __name__ == "__main__":
    program(main)
