"""Whether settings, images, devices and net fit each other."""

from __future__ import annotations

from typing import Any

import jax
import pytest

from attnjax.training import Layout
from tests.train.support import replace, small
from train.config.errors import UserError
from train.runs.setup import Program, abstract_state, make_layout, norm_options
from train.tasks.classification import CLASSIFICATION
from train.tasks.recipe import Run

CONFIG = replace(small(), {"data.batch_size": 32})
DEVICE = {"parallel.batch_norm": "device"}
PMAP = {"parallel.engine": "pmap"}
PARTS = {"parallel.accumulate": 2}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.batch_size": 12}, "data.batch_size=12 cannot be divided evenly among 8 devices: use 8"),
        (
            PARTS | {"data.batch_size": 8},
            "data.batch_size=8 cannot be divided evenly among 8 devices in 2 parts: use 16",
        ),
        ({"parallel.shard_parameters": 3}, "parallel.shard_parameters=3 does not divide the 8 devices"),
        (
            {"data.mixup": 0.1, "data.batch_size": 24},
            "data.mixup and data.cutmix mix neighbouring images: the number on each device, 3, must be even",
        ),
    ],
)
def test_a_batch_that_cannot_be_divided_is_named(changes: dict[str, Any], message: str):
    with pytest.raises(UserError) as error:
        make_layout(replace(CONFIG, changes))
    assert str(error.value) == message


def test_a_layout_is_on_the_devices_given():
    assert make_layout(replace(CONFIG, {"data.batch_size": 12}), jax.devices()[:3]).num_devices == 3


@pytest.mark.parametrize(
    ("changes", "options"),
    [
        ({}, {"groups": 1}),
        (DEVICE, {"groups": 8}),
        ({"parallel.batch_norm": 2}, {"groups": 16}),
        (PARTS | DEVICE, {"groups": 8}),
        (PMAP, {"axis_name": "device"}),
        (PMAP | {"parallel.batch_norm": 32}, {"axis_name": "device"}),
        (PMAP | DEVICE, {"groups": 1}),
        (PMAP | {"parallel.batch_norm": 2}, {"groups": 2}),
    ],
)
def test_batch_norm_takes_the_images_that_the_settings_say(changes: dict[str, Any], options: dict[str, Any]):
    assert norm_options(replace(CONFIG, changes), 8) == options


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parallel.batch_norm": 5}, "parallel.batch_norm=5 does not divide the 32 images of a batch"),
        (PMAP | {"parallel.batch_norm": 8}, "parallel.batch_norm=8 does not divide the 4 images of a device"),
        (PARTS | {"parallel.batch_norm": 32}, "does not divide the 16 images of a batch part"),
    ],
)
def test_batch_norm_says_what_cannot_be_divided(changes: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        norm_options(replace(CONFIG, changes), 8)


def test_settings_that_leave_one_value_for_a_statistic_are_refused_before_training():
    config = replace(CONFIG, {"parallel.accumulate": 32, "data.image_size": 1})
    run = Run(config, tuple("0123456789"), (1, 1, 1), 1437)
    with pytest.raises(UserError, match=r"cannot be trained with these settings: .*more than one value"):
        Program.create(CLASSIFICATION, run, Layout.create(jax.devices()[:1]))


def test_a_submodule_that_the_net_has_not_is_named_with_its_setting():
    run = Run(replace(CONFIG, {"optimizer.scaled_module": "fcc"}), tuple("0123456789"), (8, 8, 1), 1437)
    with pytest.raises(UserError, match=r"optimizer.scaled_module.*fcc.*did you mean fc\?"):
        abstract_state(CLASSIFICATION, run)
