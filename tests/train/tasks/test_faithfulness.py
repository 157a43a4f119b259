"""Scores of maps of a run: means over all images, whatever the batch, and maps that know nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.train.support import small
from train import explain
from train.config import Config, DataConfig
from train.data import open_dataset
from train.data.canvas import canvas_boxes
from train.runs.record import Run
from train.tasks import faithfulness
from train.tasks.classification import Evaluation

Trained = tuple[Path, Evaluation]
Fails = Callable[..., str]


class Bright(nn.Module):
    """Class 1 is certain where a pixel is bright."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Conv(1, (1, 1), name="conv")(x)
        light = jnp.max(x, (1, 2, 3))
        return 100 * jnp.stack([0.5 - light, light - 0.5], -1)


VARIABLES = {"params": {"conv": {"kernel": jnp.ones((1, 1, 1, 1)), "bias": jnp.zeros(1)}}}


def score_maps(images: np.ndarray, boxes: np.ndarray | None, batch_size: int) -> dict[str, dict[str, float]]:
    ones, options = np.ones(len(images), int), {"layer": "conv", "batch_size": batch_size}
    return faithfulness.score_maps(
        Bright(), VARIABLES, lambda x: x.astype(jnp.float32) / 255, images, ones, boxes, **options
    )


@pytest.fixture
def _one_method(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faithfulness, "METHODS", ("layer_cam",))


@pytest.mark.usefixtures("_one_method")
def test_scores_are_means_over_all_images_and_a_map_of_the_spot_has_the_best():
    images = np.zeros((3, 6, 6, 1), np.uint8)
    images[[0, 1, 2], [1, 3, 5], [1, 3, 0]] = 255
    boxes = np.array([[0, 0, 3, 3], [2, 2, 5, 5], [0, 3, 3, 6]])  # the last one is elsewhere
    table = score_maps(images, boxes, 2)
    assert list(table) == ["layer_cam", "centre", "random"]
    assert {tuple(row) for row in table.values()} == {("pointing_game", "insertion", "deletion", "road")}
    assert table["layer_cam"]["pointing_game"] == pytest.approx(2 / 3)
    assert table["centre"]["pointing_game"] == pytest.approx(1 / 3)
    assert table["layer_cam"]["road"] == pytest.approx(0.5, abs=1e-3)
    assert table["layer_cam"]["deletion"] == pytest.approx(1 / 64, abs=0.02)
    for name in ("centre", "random"):
        assert table[name]["road"] < 0.4
        assert table[name]["insertion"] < table["layer_cam"]["insertion"]
    alone = score_maps(images, None, 4)
    assert alone["layer_cam"] == {
        name: pytest.approx(value, abs=1e-6) for name, value in table["layer_cam"].items() if name != "pointing_game"
    }


@pytest.mark.usefixtures("_one_method")
def test_the_program_prints_a_table_and_writes_it(trained: Trained, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    workdir = tmp_path / "run"
    workdir.symlink_to(trained[0], target_is_directory=True)
    written = trained[0] / "explain_scores.json"
    try:
        explain.main(["--workdir", str(workdir), "--scores", "--count", "5"])
        found: dict[str, Any] = json.loads(written.read_text())
    finally:
        written.unlink(missing_ok=True)
    assert {name: found[name] for name in ("layer", "target", "images")} == {
        "layer": "stage1",
        "target": "label",
        "images": 5,
    }
    said = capsys.readouterr().out.splitlines()
    assert said[:3] == [
        f"{workdir}: 5 images, stage1, class by label",
        "| method | insertion | deletion | road |",
        "| --- | --- | --- | --- |",
    ]
    values = found["scores"]["layer_cam"]
    assert said[3] == "| layer_cam | " + " | ".join(f"{values[name]:.3f}" for name in values) + " |"
    assert len(said) == 7
    assert said[-1] == str(workdir / "explain_scores.json")


def test_layers_that_cannot_be_scored_are_one_line(trained: Trained, fails: Fails):
    said = fails(explain.main, "--workdir", trained[0], "--scores", "--layer", "stage9", "--count", "2")
    assert said.startswith("error: unknown layer='stage9'")


def test_boxes_come_with_canvases_as_the_net_sees_them():
    config = Config(data=DataConfig(source="canvas_digits"), total_steps=1)
    pictures = explain.held_out(Run(config, tuple("0123456789"), (64, 64, 1), 5748), 3)
    boxes = canvas_boxes(open_dataset(config.data).test)
    assert pictures.boxes is not None
    assert boxes is not None
    np.testing.assert_array_equal(pictures.boxes, boxes[[0, 720, 1439]])
    digits = small()
    assert explain.held_out(Run(digits, tuple("0123456789"), (8, 8, 1), 1437), 2).boxes is None
