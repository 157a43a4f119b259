"""What `Pod.planned_bytes` runs in a process of its own, in the place of the compiler for TPUs."""

from __future__ import annotations

import os
import threading
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any


def reports(topology: str, config: Any, folder: str, sender: Connection) -> None:
    """Writes the report on a step's memory, and never comes to an end."""
    report = Path(folder, "module_0000.jit_train_step.after_optimizations-memory-usage-report.txt")
    report.write_text("Memory Space: default (color=0)\nTotal bytes: 3221225472 (3.00GiB)\n  cumulative_size;  size\n")
    threading.Event().wait()


def ends(topology: str, config: Any, folder: str, sender: Connection) -> None:
    """Compiles without any report."""
    sender.send(5 * 2**30)


def refuses(topology: str, config: Any, folder: str, sender: Connection) -> None:
    """Finds no room."""
    sender.send("RESOURCE_EXHAUSTED: temporaries (17.50G) exceed available HBM (15.75G).")


def fails(topology: str, config: Any, folder: str, sender: Connection) -> None:
    """Cannot compile the step."""
    sender.send("INTERNAL: no such instruction")


def dies(topology: str, config: Any, folder: str, sender: Connection) -> None:
    """Is killed."""
    os._exit(7)
