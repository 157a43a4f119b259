"""What processes have to agree on before they train together."""

from __future__ import annotations

import jax

from train.config import flatten
from train.data import Dataset
from train.hosts.processes import SharedError, gather
from train.runs.lock import lock_holder
from train.runs.record import Run


def check_agreement(run: Run, dataset: Dataset) -> None:
    """Checks that all processes are about to do the same.

    Raises:
      UserError: they are not; it names a process and what differs.
    """
    mine = flatten(run.config) | {
        "training images": len(dataset.train),
        "test images": len(dataset.test),
        "devices of a process": jax.local_device_count(),
        "jax": jax.__version__,
    }
    mine |= {f"class {label}": name for label, name in enumerate(run.class_names)}
    first, *others = gather("settings", mine)
    for process, other in enumerate(others, 1):
        for name in first | other:
            one, two = first.get(name), other.get(name)
            if one != two:
                told = f"{name} is {one!r} in process 0 and {two!r} in process {process}"
                raise SharedError(f"all processes need the same: {told}")


def check_shared(workdir: str, holder: str) -> None:
    """Checks that all processes see the lock that process 0 has taken.

    Raises:
      UserError: they do not; it names them.
    """
    seen = gather("work directory", [workdir, lock_holder(workdir) == holder])
    blind = [f"{folder} of process {process}" for process, (folder, sees) in enumerate(seen) if not sees]
    if blind:
        raise SharedError(
            f"work directory {seen[0][0]} of process 0 is not {', nor '.join(blind)}: all processes need to share it"
        )
