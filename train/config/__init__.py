"""Settings of runs and ablations, their command-line flags, and user errors."""

from train.config.ablation import Ablation
from train.config.schema import (
    DURATIONS,
    MAY_CHANGE,
    Config,
    DataConfig,
    DetectionConfig,
    GGAMConfig,
    ModelConfig,
    OptimizerConfig,
    ParallelConfig,
    ScheduleConfig,
)
from train.config.validation import flatten, from_dict

__all__ = [
    "DURATIONS",
    "MAY_CHANGE",
    "Ablation",
    "Config",
    "DataConfig",
    "DetectionConfig",
    "GGAMConfig",
    "ModelConfig",
    "OptimizerConfig",
    "ParallelConfig",
    "ScheduleConfig",
    "flatten",
    "from_dict",
]
