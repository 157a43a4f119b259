"""The application: trains, evaluates and uses the nets of attnjax. Needs `pip install -e '.[train]'`."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from train.runs.loop import train as train
    from train.runs.record import load_run as load_run

__all__ = ["load_run", "train"]

_EXTRA = (
    "grain",
    "matplotlib",
    "optax",
    "orbax",
    "PIL",
    "sklearn",
    "tensorboard",
    "tensorflow_datasets",
    "tqdm",
    "tyro",
)
_MODULES = {"load_run": "train.runs.record", "train": "train.runs.loop"}

if _missing := [name for name in _EXTRA if importlib.util.find_spec(name) is None]:
    _message = f"{', '.join(_missing)} not installed: pip install -e '.[train]'"
    if sys.argv[:1] == ["-m"]:  # true while the interpreter locates the program of `python -m train`
        print(f"error: {_message}", file=sys.stderr)
        sys.exit(2)
    raise ImportError(_message)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'train' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
