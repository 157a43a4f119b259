"""What an ablation is: variants of one run, and what was published of them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from train.config.errors import UserError, nearest
from train.config.schema import Config, flatten, from_dict
from train.config.validation import Checked

_OWN_FILES = ("lock", "table.md", "table.csv", "plot.png")
"""What lies beside the folders of the variants."""


@dataclasses.dataclass(frozen=True)
class Ablation(Checked):
    """A table of variants, each to be trained with several seeds; see `configs/ablations`.

    Attributes:
      base: the settings that all share. Its seed is the first.
      variants: by label, the settings that differ, by their names on the command line.
      published: by label, the figure that was published of a variant, as it is to be shown.
      source: where.
    """

    base: Config
    variants: Mapping[str, Mapping[str, Any]]
    published: Mapping[str, str] = dataclasses.field(default_factory=dict)
    source: str = ""

    def validate(self) -> None:
        if not self.variants:
            raise UserError("an ablation needs variants")
        folders = {name: f"the table's own {name}" for name in _OWN_FILES}
        for label in self.variants:
            folder = folder_name(label)
            if not folder or folder.casefold() in folders:
                other = f" as {folders[folder.casefold()]}" if folder else ""
                raise UserError(f"variant {label!r} has {folder!r} for a folder{other}: take another label")
            folders[folder.casefold()] = repr(label)
            self.config(label)
        for label in self.published:
            if label not in self.variants:
                raise UserError(f"published: there is no variant {label!r}{nearest(label, self.variants)}")

    def config(self, label: str) -> Config:
        """The settings of a variant."""
        try:
            return with_settings(self.base, self.variants[label])
        except UserError as error:
            raise UserError(f"variant {label!r}: {error}") from error


def folder_name(label: str) -> str:
    """The name of a variant's folder: what is no letter, digit, dot, plus or minus is an underscore."""
    return re.sub(r"[^\w.+-]+", "_", label).strip("._")


def with_settings(config: Config, settings: Mapping[str, Any]) -> Config:
    """Replaces settings, given by their names on the command line, all at once.

    Raises:
      UserError: a setting is unknown, or a value does not fit.
    """
    known, values = flatten(config), dataclasses.asdict(config)
    del known["seed"]
    for name, value in settings.items():
        if name not in known:
            raise UserError(f"{name!r} is no setting of a variant{nearest(name, known)}")
        *groups, last = name.split(".")
        group = values
        for each in groups:
            group = group[each]
        group[last] = value
    return from_dict(Config, values)
