"""Start weights: files of attnjax.convert put into nets that are to be trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

import attnjax
from attnjax.convert import save_weights
from attnjax.training import Layout, TrainState
from tests.train.support import replace, small
from train import load_run, train
from train.config import Config
from train.config.errors import UserError
from train.runs.initial_weights import start_from
from train.runs.setup import Program
from train.tasks.classification import CLASSIFICATION
from train.tasks.recipe import Run

CLASSES = tuple("0123456789")


def fresh(seed: int = 0, classes: int = 10) -> dict[str, Any]:
    net = CLASSIFICATION.model(Run(small(), tuple(map(str, range(classes))), (8, 8, 1), 1437))
    return attnjax.init(net, jax.random.key(seed), (1, 8, 8, 1))


def written(path: Path, variables: Any) -> str:
    save_weights(path, variables)
    return str(path)


def start(config: Config, classes: tuple[str, ...] = CLASSES) -> TrainState:
    """The state of a run before its first step."""
    run = Run(config, classes, (8, 8, 1), 1437)
    return Program.create(CLASSIFICATION, run, Layout.create(jax.devices()[:1])).fresh_state(config.seed)


def state_from(path: str, classes: tuple[str, ...] = CLASSES) -> TrainState:
    return start(small({"model.weights": path}), classes)


def equal(one: Any, two: Any) -> bool:
    return jax.tree.all(jax.tree.map(lambda a, b: bool((np.asarray(a) == np.asarray(b)).all()), one, two))


@pytest.mark.parametrize("name", ["weights.safetensors", "orbax"])
def test_a_run_starts_with_exactly_the_weights_of_the_file(tmp_path: Path, name: str):
    given = fresh(seed=7)
    given["batch_stats"]["bn1"]["mean"] += 1
    path = written(tmp_path / name, given)
    state = state_from(path)
    assert equal(state.variables, given)
    assert state.ema is None
    assert int(state.step) == 0
    assert not equal(fresh(seed=0), given)


def test_the_average_starts_with_the_weights_too(tmp_path: Path):
    path = written(tmp_path / "weights.safetensors", fresh(seed=7))
    state = start(small({"model.weights": path, "ema_decay": 0.9}))
    assert equal(state.ema, fresh(seed=7))


def test_a_classifier_of_another_number_of_classes_starts_fresh_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = written(tmp_path / "weights.safetensors", fresh(seed=7, classes=100))
    variables = state_from(path).variables
    expected = fresh(seed=7)
    expected["params"]["fc"] = fresh(seed=0)["params"]["fc"]
    assert equal(variables, expected)
    assert "the classifier of 10 classes is not in" in capsys.readouterr().err


def test_everything_that_does_not_fit_is_listed_with_the_nearest_name(tmp_path: Path):
    flat = flatten_dict(fresh(), sep="/")
    flat["params/conv_1/kernel"] = flat.pop("params/conv1/kernel")
    flat["params/bn1/scale"] = flat["params/bn1/scale"][:3]
    del flat["batch_stats/bn1/var"]
    path = written(tmp_path / "weights.safetensors", unflatten_dict(flat, sep="/"))
    with pytest.raises(UserError) as error:
        state_from(path)
    for part in (
        repr(path),
        "params/conv1/kernel is missing (nearest: params/conv_1/kernel)",
        "params/conv_1/kernel is not in the net",
        "params/bn1/scale is (3,), not (32,)",
        "batch_stats/bn1/var is missing",
    ):
        assert part in str(error.value)


def test_a_plain_net_does_not_pass_for_one_with_attention(tmp_path: Path):
    path = written(tmp_path / "weights.safetensors", fresh())
    config = small({"model.weights": path, "model.name": "se_resnet20_cifar"})
    with pytest.raises(UserError, match="params/stage1_block0/attention/mlp/fc1/kernel is missing"):
        start(config)


@pytest.mark.parametrize("path", ["none.safetensors", "none"])
def test_a_file_that_is_not_there_is_named(path: str):
    with pytest.raises(UserError, match=f"model.weights: .*{path}"):
        state_from(path)


class Backbone(nn.Module):
    """A net whose classifier a net around it does not use."""

    classifier: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        x = nn.Conv(4, (3, 3), name="conv")(x).mean((1, 2))
        return nn.Dense(5, name="fc")(x) if self.classifier else x


class Around(nn.Module):
    """A net around a backbone."""

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        return nn.Dense(3, name="fc")(Backbone(classifier=False, name="backbone")(x))


def test_a_file_of_the_backbone_alone_fills_the_backbone(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    image = np.zeros((1, 8, 8, 1), np.float32)
    given, variables = (net.init(jax.random.key(seed), image) for net, seed in ((Backbone(), 7), (Around(), 0)))
    path = written(tmp_path / "weights.safetensors", given)
    started = start_from(path, variables)
    assert equal(started["params"]["backbone"], {"conv": given["params"]["conv"]})
    assert equal(started["params"]["fc"], variables["params"]["fc"])
    assert "everything but the backbone is not in" in capsys.readouterr().err


def test_a_resumed_run_does_not_need_the_file(tmp_path: Path):
    path = written(tmp_path / "weights.safetensors", fresh(seed=7))
    config = small({"model.weights": path, "schedule.kind": "constant", "schedule.warmup": 0.0, "total_steps": 4})
    train(config, str(tmp_path / "whole"))
    train(replace(config, {"total_steps": 2}), str(tmp_path / "parts"))
    Path(path).unlink()
    train(config, str(tmp_path / "parts"))
    whole, parts = (load_run(str(tmp_path / name)).variables for name in ("whole", "parts"))
    assert equal(whole, parts)
    assert not equal(whole, fresh(seed=7))
