"""The settings of a run and of an ablation, their flags, and the errors a user can mend."""

from train.config.ablation import Ablation
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
    flatten,
    from_dict,
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
