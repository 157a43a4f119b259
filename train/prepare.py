"""python -m train.prepare [NAME] [--from DIR] [--data_dir DIR]

ImageNet needs none of this: unpack it into train and val with a folder for each class, and use `folder:DIR`.
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
    """Writes the contents of any archive as a TFDS set. It needs no TensorFlow, because images come encoded."""

    __module__ = "train.prepare"  # which TFDS writes down as the maker; the program's own is __main__
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
    """Prepares a data set for `tfds:NAME` from its makers' files; one that is prepared already stays as it is.

    Args:
      name: one of `train.data.archives.ARCHIVES`.
      source: folder in which the files lie, unpacked.
      data_dir: folder of the prepared sets; None is $TFDS_DATA_DIR or ~/tensorflow_datasets.

    Returns:
      A line that says what is there now.

    Raises:
      UserError: there is no such set, or files are missing or damaged.
    """
    archive, folder = _archive(name), tfds_folder(data_dir)
    builder = _Builder(name, archive, archive.open(source), folder)
    if builder.is_prepared():
        return f"tfds:{name} is prepared already in {builder.data_path}: delete it to prepare anew"
    print(f"writing to {folder}", flush=True)
    tfds.disable_progress_bar()
    try:
        builder.download_and_prepare()
    except (OSError, ValueError) as error:
        raise UserError(f"cannot prepare {name} from {source}: {describe(error)}") from error
    train, test = (builder.info.splits[split].num_examples for split in ("train", "test"))
    classes = builder.info.features["label"].num_classes
    return f"tfds:{name} in {folder}: {train} training images, {test} test images, {classes} classes"


def wanted(name: str) -> str:
    """Says what `prepare` needs for a data set: which files, from where, and how many bytes they are.

    Raises:
      UserError: there is no such set.
    """
    archive = _archive(name)
    train, test = archive.counts
    return "\n".join(
        (
            f"{name}: {train:,} training and {test:,} test images",
            f"  take {archive.source}",
            f"  DIR must hold {', '.join(archive.files)}",
            f"  python -m train.prepare {name} --from DIR",
        )
    )


def _archive(name: str) -> Archive:
    if name not in ARCHIVES:
        raise UserError(f"NAME={name!r} must be one of {', '.join(ARCHIVES)}{nearest(name, ARCHIVES)}")
    return ARCHIVES[name]


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Prepares a data set for `--data.source tfds:NAME` from the files of its makers, without TensorFlow.

    Without --from it tells which files that takes, and where they are to be had; without NAME it does for all sets.
    """

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")] = ""
    """fashion_mnist, cifar10, cifar100, caltech_birds2011, cars196 or fgvc_aircraft."""
    source: Annotated[str | None, tyro.conf.arg(name="from", metavar="DIR")] = None
    """Folder in which the files lie, unpacked."""
    data_dir: str | None = None
    """Folder of the prepared data sets; None is $TFDS_DATA_DIR or ~/tensorflow_datasets."""


def main(arguments: Sequence[str]) -> None:
    """Reads the flags and says what is there now, or what is wanted."""
    parsed = parse(Arguments, arguments, prog="python -m train.prepare")
    if parsed.source is not None:
        print(prepare(parsed.name, parsed.source, parsed.data_dir))
    else:
        print("\n\n".join(wanted(name) for name in ([parsed.name] if parsed.name else ARCHIVES)))


if __name__ == "__main__":
    program(main)
