"""The application: trains, evaluates and uses the nets of attnjax. Needs `pip install -e '.[train]'`."""

from __future__ import annotations

import importlib.util
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from train.config import Config
    from train.runs.record import LoadedRun
    from train.tasks.task import Task

__all__ = ["load_run", "train"]

_EXTRA = (
    "grain",
    "matplotlib",
    "orbax",
    "PIL",
    "sklearn",
    "tensorboard",
    "tensorflow_datasets",
    "tqdm",
    "tyro",
)

if _missing := [name for name in _EXTRA if importlib.util.find_spec(name) is None]:
    _message = f"{', '.join(_missing)} not installed: pip install -e '.[train]'"
    if sys.argv[:1] == ["-m"]:  # true while the interpreter locates the program of `python -m train`
        print(f"error: {_message}", file=sys.stderr)
        sys.exit(2)
    raise ImportError(_message)


def train(config: Config, workdir: str, task: Task | None = None) -> Any:
    """Trains the run in a folder, see `train.runs.loop.train`; the task is that of the net unless given."""
    from train.runs import loop
    from train.tasks import task_of

    return loop.train(config, workdir, task_of(config) if task is None else task)


def load_run(workdir: str, checkpoint: str = "last", task: Task | None = None) -> LoadedRun:
    """Loads a trained net, see `train.runs.record.load_run`; the task is that of the net unless given."""
    from train.runs import record
    from train.tasks import task_of

    return record.load_run(workdir, task_of(record.read_run(workdir).config) if task is None else task, checkpoint)
