"""One run at a time in a work directory, which all processes share."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import os
import socket
import sys
from collections.abc import Iterator

from train.config.errors import UserError
from train.hosts.processes import CollectiveError, gather


@contextlib.contextmanager
def locked(workdir: str) -> Iterator[None]:
    """Holds a lock on WORKDIR/lock; the kernel releases it when the process ends, however it ends.

    Args:
      workdir: the run's folder, created if missing.

    Raises:
      UserError: another process holds the lock, or the folder is not writable.
    """
    try:
        os.makedirs(workdir, exist_ok=True)
        file = open(os.path.join(workdir, "lock"), "ab+", buffering=0)  # noqa: SIM115 - closed below
    except OSError as error:
        raise UserError(f"cannot write to work directory {workdir}: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = lock_holder(workdir) or "another process"
            raise UserError(
                f"{workdir} is in use by {holder}: wait until it ends, or choose another --workdir"
            ) from None
        except OSError as error:  # a file system without locks
            print(
                f"note: {workdir} cannot be locked ({error.strerror}): make sure that no other run uses it",
                file=sys.stderr,
            )
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        with contextlib.suppress(OSError):  # a full disk: the lock holds without a name
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()} since {now}\n".encode())
        yield


def lock_holder(workdir: str) -> str:
    """The process that holds or last held a work directory; empty if none has."""
    with contextlib.suppress(OSError), open(os.path.join(workdir, "lock")) as file:
        return file.read().strip()
    return ""


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
