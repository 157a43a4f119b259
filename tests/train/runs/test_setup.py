"""Whether settings, images, devices and net fit each other."""

from __future__ import annotations

import jax
import pytest

from attnjax.training import Layout
from tests.train.support import replace, small
from train.config.errors import UserError
from train.runs.setup import Program, abstract_state
from train.tasks.classification import CLASSIFICATION
from train.tasks.recipe import Run

CONFIG = replace(small(), {"data.batch_size": 32})


def test_settings_that_leave_one_value_for_a_statistic_are_refused_before_training():
    config = replace(CONFIG, {"parallel.accumulate": 32, "data.image_size": 1})
    run = Run(config, tuple("0123456789"), (1, 1, 1), 1437)
    with pytest.raises(UserError, match=r"cannot be trained with these settings: .*more than one value"):
        Program.create(CLASSIFICATION, run, Layout.create(jax.devices()[:1]))


def test_a_submodule_that_the_net_has_not_is_named_with_its_setting():
    run = Run(replace(CONFIG, {"optimizer.scaled_module": "fcc"}), tuple("0123456789"), (8, 8, 1), 1437)
    with pytest.raises(UserError, match=r"optimizer.scaled_module.*fcc.*did you mean fc\?"):
        abstract_state(CLASSIFICATION, run)
