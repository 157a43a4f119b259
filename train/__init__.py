"""The application: trains, evaluates and uses the nets of attnjax. Needs `pip install -e '.[train]'`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from train.runs.loop import train as train
    from train.runs.record import load_run as load_run

__all__ = ["load_run", "train"]

_HOMES = {"load_run": "train.runs.record", "train": "train.runs.loop"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'train' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
