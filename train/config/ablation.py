"""The settings of an ablation: variants of one run, and their published figures."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from train.config.errors import UserError, nearest
from train.config.schema import Config
from train.config.validation import Validated, flatten, from_dict

_OWN_FILES = ("lock", "table.md", "table.csv", "plot.png")
"""Files beside the folders of the variants."""


@dataclasses.dataclass(frozen=True)
class Ablation(Validated):
    """Variants of a run, each to be trained with several seeds; see `configs/ablations/`.

    Attributes:
      base: the common settings. Its seed is the first one.
      variants: by label, the settings in which a variant differs, by their names on the command line.
      published: by label, the published figure of a variant, as shown in the table.
      source: where the figures were published.
    """

    base: Config
    variants: Mapping[str, Mapping[str, Any]]
    published: Mapping[str, str] = dataclasses.field(default_factory=dict)
    source: str = ""

    def validate(self) -> None:
        if not self.variants:
            raise UserError("an ablation needs variants")
        folders = {name: f"the table's {name}" for name in _OWN_FILES}
        for label in self.variants:
            folder = folder_name(label)
            if not folder or folder.casefold() in folders:
                other = f", already used by {folders[folder.casefold()]}" if folder else ""
                raise UserError(f"the folder of variant {label!r} is {folder!r}{other}: choose another label")
            folders[folder.casefold()] = repr(label)
            self.config(label)
        for label in self.published:
            if label not in self.variants:
                raise UserError(f"published: there is no variant {label!r}{nearest(label, self.variants)}")

    def config(self, label: str) -> Config:
        """Returns the settings of a variant."""
        try:
            return with_settings(self.base, self.variants[label])
        except UserError as error:
            raise UserError(f"variant {label!r}: {error}") from error


def folder_name(label: str) -> str:
    """Folder of a variant: its label with anything but letters, digits, dots, plus and minus as underscores."""
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
            raise UserError(f"a variant cannot set {name!r}{nearest(name, known)}")
        *groups, last = name.split(".")
        group = values
        for each in groups:
            group = group[each]
        group[last] = value
    return from_dict(Config, values)
