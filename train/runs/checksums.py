"""Checksums of a folder, stored in the folder, to detect later damage."""

from __future__ import annotations

import hashlib
import json
import os
from typing import Any

from train.config.atomic import replacing

_NAME = "checksums.json"


def seal(folder: str, subfolders: tuple[str, ...], metadata: dict[str, Any]) -> None:
    """Writes metadata and the SHA-256 of every file in the subfolders to checksums.json."""
    names = [
        os.path.relpath(os.path.join(inside, name), folder)
        for subfolder in subfolders
        for inside, _, files in os.walk(os.path.join(folder, subfolder))
        for name in files
    ]
    sums = {name: _sha256(os.path.join(folder, name)) for name in sorted(names)}
    with open(os.path.join(folder, _NAME), "w") as file:
        json.dump({**metadata, "sha256": sums}, file, indent=1)


def add_metadata(folder: str, new: dict[str, Any]) -> None:
    """Adds to the metadata of a sealed folder."""
    path = os.path.join(folder, _NAME)
    with open(path) as file:
        old = json.load(file)
    with replacing(path) as written, open(written, "w") as file:
        json.dump(old | new, file, indent=1)


def metadata(folder: str) -> dict[str, Any]:
    """The contents of checksums.json; empty if it is missing or unreadable."""
    try:
        with open(os.path.join(folder, _NAME)) as file:
            return dict(json.load(file))
    except (OSError, ValueError, TypeError):
        return {}


def damage(folder: str) -> str | None:
    """Describes the first damaged file; None if all files match their checksums."""
    sums = metadata(folder).get("sha256")
    if not isinstance(sums, dict):
        return f"{_NAME} is missing or unreadable"
    for name, expected in sums.items():
        try:
            if _sha256(os.path.join(folder, name)) != expected:
                return f"{name} does not match its checksum"
        except OSError as error:
            return f"{name}: {error.strerror}"
    return None


def _sha256(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
