"""python -m train.draw_scenes [FOLDER]"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated

import tyro

from train.config.flags import parse, program
from train.data.scenes import COUNTS, write_scenes


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Draws scenes of digits and flowers on photographs, with exact boxes and masks, in COCO's format.

    They are made of the images that scikit-learn ships, always the same ones: nothing is downloaded. Train on them with
    `--data.source coco:FOLDER`.
    """

    folder: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")] = "data/scenes"
    """Created if missing."""


def main(arguments: Sequence[str]) -> None:
    """Reads the flags and writes the scenes."""
    folder = parse(Arguments, arguments, prog="python -m train.draw_scenes").folder
    write_scenes(folder)
    counts = " and ".join(f"{count} scenes of {split}" for split, count in COUNTS.items())
    print(f"{counts} in {folder}: --data.source coco:{folder}")


if __name__ == "__main__":
    program(main)
