"""Settings are checked when they are built, and their names are those of the command line."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

import pytest

from tests.train.support import DIGITS, replace, small
from train.config import (
    MAY_CHANGE,
    Config,
    DataConfig,
    GGAMConfig,
    ModelConfig,
    OptimizerConfig,
    ScheduleConfig,
    flatten,
    from_dict,
)
from train.config.errors import UserError
from train.config.flags import read_config_file


@pytest.mark.parametrize(
    ("build", "settings", "message"),
    [
        (DataConfig, {"batch_size": "64"}, "batch_size='64' must be of type int"),
        (DataConfig, {"batch_size": 64.0}, "batch_size=64.0 must be of type int"),
        (DataConfig, {"batch_size": True}, "batch_size=True must be of type int"),
        (DataConfig, {"flip": 1}, "flip=1 must be of type bool"),
        (DataConfig, {"mean": 0.5}, "mean=0.5 must be of type tuple"),
        (DataConfig, {"mean": ("0.5",)}, "mean=('0.5',) must be of type tuple"),
        (DataConfig, {"channels": 2}, "channels=2 must be of type"),
        (DataConfig, {"batch_size": 0}, "batch_size=0 must be from 1 to 1048576"),
        (DataConfig, {"num_threads": 0}, "num_threads=0 must be from 1 to 1024"),
        (DataConfig, {"pad": -1}, "pad=-1 must be from 0 to 1024"),
        (DataConfig, {"test_fraction": 1.0}, "test_fraction=1.0 must be between 0 and 1"),
        (DataConfig, {"resize": 9}, "data.resize needs data.image_size"),
        (DataConfig, {"resize": 9, "image_size": 10}, "resize=9 must be from image_size (10) to 8192"),
        (DataConfig, {"mean": (0.1, 0.2)}, "mean=(0.1, 0.2) must be one value or three"),
        (DataConfig, {"std": (0.0,)}, "std=(0.0,) must be one value or three, all positive"),
        (OptimizerConfig, {"learning_rate": "0.1"}, "learning_rate='0.1' must be of type float"),
        (OptimizerConfig, {"learning_rate": 0}, "learning_rate=0 must be positive"),
        (OptimizerConfig, {"learning_rate": float("nan")}, "learning_rate=nan must be of type float"),
        (OptimizerConfig, {"learning_rate": float("inf")}, "learning_rate=inf must be of type float"),
        (OptimizerConfig, {"momentum": 1.0}, "momentum=1.0 must be at least 0 and below 1"),
        (OptimizerConfig, {"weight_decay": -1e-4}, "weight_decay=-0.0001 must be at least 0"),
        (OptimizerConfig, {"clip_norm": 0.0}, "clip_norm=0.0 must be positive or None"),
        (ScheduleConfig, {"kind": "linear"}, "'constant' or 'step' or 'cosine'"),
        (ScheduleConfig, {"warmup": 1.0}, "warmup=1.0 must be at least 0 and below 1"),
        (ScheduleConfig, {"kind": "step", "milestones": (0.7, 0.5)}, "milestones=(0.7, 0.5) must be rising"),
        (ScheduleConfig, {"kind": "step", "milestones": (0.5, 1.0)}, "milestones=(0.5, 1.0) must be rising"),
        (ScheduleConfig, {"factor": 0.0}, "factor=0.0 must be positive"),
        (Config, {}, "set exactly one of total_steps, total_epochs, total_examples: got none"),
        (Config, {"total_steps": 1, "total_epochs": 1}, "got total_steps and total_epochs"),
        (Config, {"total_steps": 0}, "total_steps=0 must be positive"),
        (Config, {"total_steps": 1.5}, "total_steps=1.5 must be of type"),
        (
            Config,
            {"total_steps": 1, "label_smoothing": 1.0},
            "label_smoothing=1.0 must be at least 0 and below 1",
        ),
        (Config, {"total_steps": 1, "ema_decay": 1.0}, "ema_decay=1.0 must be between 0 and 1"),
        (Config, {"total_steps": 1, "seed": -1}, "seed=-1 must be at least 0"),
        (Config, {"total_steps": 1, "log_every_steps": 0}, "log_every_steps=0 must be at least 1"),
        (
            Config,
            {"total_steps": 1, "keep_last_checkpoints": 0},
            "keep_last_checkpoints=0 must be at least 1",
        ),
        (Config, {"total_steps": 1, "data": {}}, "data={} must be of type DataConfig"),
        (ModelConfig, {"name": "resnet21_cifar"}, "model.name: unknown model 'resnet21_cifar': did you mean resnet"),
        (ModelConfig, {"options": {"width": (8,)}}, "model.options: unknown argument 'width' of model"),
        (
            ModelConfig,
            {"options": {"attention": {"kernel": 3}}},
            "of attention of model 'cbam_resnet20_cifar': did",
        ),
        (ModelConfig, {"options": {"num_classes": 3}}, "model.options: 'num_classes' is set by model.num_classes"),
        (ModelConfig, {"options": {"name": "resnet18"}}, "model.options: 'name' is set by model.name"),
        (
            ModelConfig,
            {"options": {"widths": [8]}},
            "model.options={'widths': [8]} must be of type dict",
        ),
        (GGAMConfig, {"weight": -1}, "ggam.weight=-1 must be at least 0"),
        (GGAMConfig, {"epsilon": 0.0}, "ggam.epsilon=0.0 must be between 0 and 1"),
        (GGAMConfig, {"wrt": "B"}, "ggam.wrt='B' must be of type 'A' or 'D'"),
        (
            Config,
            {"total_steps": 1, "ggam": GGAMConfig(weight=0.5)},
            "ggam.weight=0.5 needs another net than model.name='cbam_resnet20_cifar': take ggam_resnet50 or",
        ),
    ],
)
def test_what_does_not_fit_is_named_with_what_is_allowed(build: Any, settings: dict[str, Any], message: str):
    with pytest.raises(UserError, match=re.escape(message)):
        build(**settings)


@pytest.mark.parametrize("settings", [{"total_epochs": 1}, {"total_epochs": 0.5}, {"total_examples": 7}])
def test_an_int_serves_where_a_float_is_wanted(settings: dict[str, Any]):
    assert Config(**settings).optimizer == OptimizerConfig()
    assert OptimizerConfig(learning_rate=1).learning_rate == 1


@pytest.mark.parametrize(
    ("duration", "steps"),
    [
        ({"total_steps": 7}, 7),
        ({"total_epochs": 60}, 1348),  # 60 * 1437 / 64 = 1347.2
        ({"total_epochs": 0.5}, 12),  # 718.5 / 64 = 11.2
        ({"total_examples": 128}, 2),
        ({"total_examples": 129}, 3),
        ({"total_examples": 1}, 1),
    ],
)
def test_durations_become_steps_that_cover_them(duration: dict[str, Any], steps: int):
    assert Config(data=DataConfig(batch_size=64), **duration).steps(1437) == steps


def test_names_are_those_of_the_command_line():
    flat = flatten(Config(total_steps=5))
    assert (flat["optimizer.momentum"], flat["total_steps"], flat["data.mean"]) == (0.9, 5, (0.5,))
    assert set(flat) >= MAY_CHANGE


def test_a_config_comes_back_from_json():
    options = {"widths": (8, 16, 32), "attention": {"pools": ("avg",), "spatial": False}}
    config = small({"optimizer.clip_norm": 2.0, "ema_decay": 0.9, "model": ModelConfig(options=options)})
    again = from_dict(Config, json.loads(json.dumps(dataclasses.asdict(config))))
    assert again == config
    assert hash(again) == hash(config)
    assert flatten(again)["model.options"] == options


def test_unknown_settings_in_json_are_named():
    stored = dataclasses.asdict(small())
    stored["data"]["colour"] = stored["data"]["bath_size"] = 1
    with pytest.raises(UserError, match=r"settings of DataConfig: bath_size: did you mean batch_size\?, colour"):
        from_dict(Config, stored)


def test_settings_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        small().total_steps = 3  # type: ignore[misc]


def test_the_embedded_default_is_cbam_on_the_digits():
    config = read_config_file(DIGITS)
    assert (config.model.name, config.data.source) == ("cbam_resnet20_cifar", "digits")
    assert replace(config, {"data.batch_size": 8}).data.batch_size == 8
