"""The loop trains a second task, boxes of digits: figures, exact evaluation, kill and resume, two processes."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from tests.train.processes import flags, processes
from tests.train.support import cached, figures, in_flags, replace
from tests.train.tasks.boxes import (
    CONFIG,
    MOST,
    Boxes,
    BoxesAndClasses,
    Evaluation,
    Predictions,
    average_precision,
)
from train import load_run, train
from train.ablation.table import Row, write_table
from train.runs.provenance import digest

SHORT = {
    "model.name": "resnet18",
    "optimizer.learning_rate": 1e-3,
    "data.batch_size": 8,
    "total_steps": 4,
    "evaluate_every_steps": 2,
    "log_every_steps": 2,
}
TASK = Boxes(test_canvases=21)
"""21 test images are two batches of 8 and 5 of a third."""


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Evaluation]:
    """Folder and figures of a run of 4 steps."""
    workdir = tmp_path_factory.mktemp("boxes")
    return workdir, train(replace(CONFIG, SHORT), str(workdir), TASK)


def truth(indices: range) -> dict[str, np.ndarray]:
    """A batch of test images."""
    images = TASK.open(CONFIG).test
    return jax.tree.map(lambda *leaves: np.stack(leaves), *[images[index] for index in indices])


def test_canvases_have_one_to_four_digits_within_their_boxes():
    batch = truth(range(21))
    counts = batch["present"].sum(1)
    assert set(counts) == set(range(1, MOST + 1))
    np.testing.assert_array_equal(batch["present"], np.arange(MOST) < counts[:, None])
    assert not batch["boxes"][~batch["present"]].any()
    for image, boxes in zip(batch["image"], batch["boxes"].astype(int), strict=True):
        for y0, x0, y1, x1 in boxes[boxes.any(1)]:
            assert 0 <= y0 < y1 <= 64
            assert 0 <= x0 < x1 <= 64
            assert image[y0:y1, x0:x1].mean() > image.mean()


def test_both_losses_and_average_precision_are_reported_by_name(short: tuple[Path, Evaluation]):
    workdir, evaluation = short
    losses = {"loss", "class_loss", "box_loss"}
    names = {"train": losses | {"learning_rate"}, "test": losses | {"average_precision"}}
    lines = figures(workdir)
    assert [(line["step"], line["split"]) for line in lines] == [(s, split) for s in (2, 4) for split in names]
    for line in lines:
        assert set(line) == {"step", "split"} | names[line["split"]]
        assert line["loss"] == pytest.approx(line["class_loss"] + line["box_loss"])
    summary = json.loads((workdir / "summary.json").read_text())
    assert summary["test_images"] == evaluation.count == 21
    assert {name: summary[f"test_{name}"] for name in evaluation.figures()} == evaluation.figures()


def test_a_table_has_the_columns_of_the_task(short: tuple[Path, Evaluation], tmp_path: Path):
    workdir, evaluation = short
    lines = write_table(str(tmp_path), TASK, [Row.read("boxes", TASK, [str(workdir)], "")], [""], "")
    titles, row = ([cell.strip() for cell in line.split("|")[5:-1]] for line in (lines[2], lines[4]))
    assert titles == ["test AP50, %", "test loss", "last training loss", "step, ms"]
    assert [float(cell) for cell in row[:2]] == pytest.approx(
        [100 * evaluation.average_precision, evaluation.figures()["loss"]], abs=0.005
    )


def test_every_image_counts_once_in_average_precision(short: tuple[Path, Evaluation]):
    workdir, evaluation = short
    model, variables, class_names = loaded = load_run(str(workdir), task=TASK)
    batch = truth(range(21))
    predict = jax.jit(lambda images: model.apply(variables, loaded.preprocess(images), method="predict"))
    predictions = jax.device_get(predict(batch["image"]))
    assert predictions.boxes.shape == (21, 8, 4)
    assert (predictions.count > 0).all()
    by_hand = average_precision(predictions, batch, len(class_names))
    assert 0 < by_hand == pytest.approx(evaluation.average_precision, abs=1e-6)
    assert evaluation.count == 21


class Given:
    """A net that returns its variables, whatever the images."""

    def apply(self, variables: Any, images: Any, **options: Any) -> Any:
        return variables


def test_padding_and_masked_images_do_not_count_in_the_loss():
    batch = truth(range(8))
    noise = np.random.default_rng(0)
    given = [noise.normal(size=(8, 8, 8, n)).astype(np.float32) for n in (11, 4)]
    mask, filled = np.arange(8) < 5, batch["present"]
    other = {
        "label": np.where(filled, batch["label"], 9),
        "boxes": np.where(filled[..., None], batch["boxes"], np.float32(30)),
        "present": np.where(mask[:, None], filled, True),
    }
    of = jax.jit(partial(BoxesAndClasses(), Given(), train=False))
    loss, aux = of(given, batch | {"mask": mask})
    loss_of_other, aux_of_other = of(given, batch | other | {"mask": mask})
    assert aux.sums == aux_of_other.sums
    assert aux.sums["matched"] == filled[:5].sum()
    assert float(loss) == loss_of_other
    total = float(aux.sums["class_loss"] + aux.sums["box_loss"])
    assert float(loss) == pytest.approx(total / int(aux.sums["matched"]))


def test_average_precision_of_known_predictions():
    box, far = [0.0, 0.0, 10.0, 10.0], [40.0, 40.0, 50.0, 50.0]
    wanted = {
        "boxes": np.array([[box, far], [box, box]], np.float32),
        "label": np.array([[0, 0], [0, 1]]),
        "present": np.array([[True, True], [True, False]]),
    }
    found = Predictions(
        boxes=np.array([[[0, 0, 10, 8], box, far], [far, box, box]], np.float32),
        scores=np.array([[0.9, 0.8, 0.6], [0.7, 0.5, 0.4]]),
        classes=np.array([[0, 0, 0], [0, 0, 0]]),
        count=np.array([3, 2]),
    )
    # By score: hit, second box of the same digit, miss, hit, hit, and one beyond the count. There is no class 1.
    assert average_precision(found, wanted, 2) == pytest.approx((1 + 3 / 5 + 3 / 5) / 3)
    # The first box has an overlap of 0.8, so that the second is the hit.
    assert average_precision(found, wanted, 2, overlap=0.85) == pytest.approx(3 / 5)


class Runs:
    """Trains on two devices, in one process or two."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache

    def train(self, workdir: Path, count: int = 1, kill_at: int | None = None) -> list[str]:
        settings = LONG | {"workdir": workdir}

        def command(process: int, port: int) -> list[str]:
            where = flags(process, count, port) if count > 1 else []
            return ["-m", "tests.train.tasks.boxes", *in_flags(settings), *where]

        with processes(command, count, 2 // count, lambda process, port: cached(self._cache)) as started:
            if kill_at is not None:
                started[0].wait_for(f"step {kill_at}/")
                return started[0].out
            for process in started:
                assert process.finish(600) == 0, process.err
            return started[0].out


LONG = {"total_steps": 80, "checkpoint_every_steps": 10, "evaluate_every_steps": 40, "log_every_steps": 5}


@pytest.fixture(scope="module")
def runs(cache: Path) -> Runs:
    return Runs(cache)


@pytest.fixture(scope="module")
def unbroken(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("unbroken")
    runs.train(workdir)
    return workdir


def outcome(workdir: Path) -> tuple[str, list[dict[str, Any]]]:
    """The digest of the last state, and all figures."""
    return digest(load_run(str(workdir), task=Boxes()).variables), figures(workdir)


@pytest.mark.slow
def test_a_killed_run_goes_on_as_the_unbroken_one(runs: Runs, unbroken: Path, tmp_path: Path):
    runs.train(tmp_path, kill_at=55)
    assert not (tmp_path / "summary.json").exists()
    assert any(f"{tmp_path} resumes at step" in line for line in runs.train(tmp_path))
    assert 0 < json.loads((tmp_path / "summary.json").read_text())["resumed_at_step"] < 80
    assert outcome(tmp_path) == outcome(unbroken)
    assert figures(tmp_path)[-1]["average_precision"] > 0.25


@pytest.mark.slow
@pytest.mark.full
def test_two_processes_gather_the_predictions_that_one_has(runs: Runs, unbroken: Path, tmp_path: Path):
    workdir = Path(shutil.copytree(unbroken, tmp_path / "run"))
    shutil.rmtree(workdir / "checkpoints" / "80")
    assert any("resumes at step 70 of 80" in line for line in runs.train(workdir, count=2))
    assert json.loads((workdir / "summary.json").read_text())["test_images"] == 150
    assert outcome(workdir) == outcome(unbroken)
