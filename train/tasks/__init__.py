"""Tasks: how batches are read, losses, metrics, predictions and plots of one kind of training."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from train.config import Config
    from train.tasks.task import Task


def task_of(config: Config) -> Task:
    """The task of a run: detection if its net is a detector, otherwise classification."""
    if config.model.is_detector:
        from train.tasks.detection import DETECTION

        return DETECTION
    from train.tasks.classification import CLASSIFICATION

    return CLASSIFICATION
