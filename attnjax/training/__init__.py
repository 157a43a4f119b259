"""The pure core of training: a step for any net, optimizer and loss, compiled for one device or many.

`make_train_step` makes the one training step that everything calls; `attnjax.losses` has the losses. Nothing here
depends on a particular net, a config file, a folder or a process.
"""

from attnjax.training._layout import Layout
from attnjax.training._loss import Aux, Loss, mask_of
from attnjax.training._mix import Mixup
from attnjax.training._optimizers import adamw, lamb, sgd
from attnjax.training._parallel import PMAP_AXIS, ParallelStep, jit_step, pmap_step, seeded
from attnjax.training._schedules import constant_schedule, cosine_schedule, step_schedule
from attnjax.training._state import Sums, TrainState
from attnjax.training._step import EvalStep, Normalize, TrainStep, make_eval_step, make_train_step

__all__ = [
    "PMAP_AXIS",
    "Aux",
    "EvalStep",
    "Layout",
    "Loss",
    "Mixup",
    "Normalize",
    "ParallelStep",
    "Sums",
    "TrainState",
    "TrainStep",
    "adamw",
    "constant_schedule",
    "cosine_schedule",
    "jit_step",
    "lamb",
    "make_eval_step",
    "make_train_step",
    "mask_of",
    "pmap_step",
    "seeded",
    "sgd",
    "step_schedule",
]
