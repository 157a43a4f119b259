"""Checks that all processes agree before they train together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from train.hosts.processes import CollectiveError, gather
from train.runs.lock import lock_holder


def check_same(values: Mapping[str, Any]) -> None:
    """Checks that all processes have the same JSON-serialisable values, by name.

    Raises:
      CollectiveError: they differ; the message names a process and the value.
    """
    first, *others = gather("settings", dict(values))
    for process, other in enumerate(others, 1):
        for name in first | other:
            one, two = first.get(name), other.get(name)
            if one != two:
                difference = f"{name} is {one!r} in process 0 and {two!r} in process {process}"
                raise CollectiveError(f"all processes must have the same settings: {difference}")


def check_same_folder(workdir: str, holder: str) -> None:
    """Checks that all processes see the lock that process 0 holds.

    Raises:
      CollectiveError: some do not; the message names them.
    """
    seen = gather("work directory", [workdir, lock_holder(workdir) == holder])
    blind = [f"{folder} of process {process}" for process, (folder, sees) in enumerate(seen) if not sees]
    if blind:
        raise CollectiveError(
            f"work directory {seen[0][0]} of process 0 is not {', nor '.join(blind)}: all processes must share it"
        )
