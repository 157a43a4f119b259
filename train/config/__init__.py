"""Settings of runs and ablations, their command-line flags, and user errors."""

from train.config.ablation import Ablation
from train.config.dicts import flatten, from_dict
from train.config.schema import (
    DURATIONS,
    MAY_CHANGE,
    Config,
    DataConfig,
    GGAMConfig,
    ModelConfig,
    OptimizerConfig,
    ParallelConfig,
    ScheduleConfig,
)

__all__ = [
    "DURATIONS",
    "MAY_CHANGE",
    "Ablation",
    "Config",
    "DataConfig",
    "GGAMConfig",
    "ModelConfig",
    "OptimizerConfig",
    "ParallelConfig",
    "ScheduleConfig",
    "flatten",
    "from_dict",
]
