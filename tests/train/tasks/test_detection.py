"""Runs of detectors: metrics by name, exact evaluation, files, kill and resume, processes, bad settings."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from attnjax.detection import COCO_METRICS, Detections, coco_evaluation
from tests.train.processes import flags, processes
from tests.train.support import cached, figures, replace
from train import evaluate, load_run, predict, train
from train.ablation.table import Row, write_table
from train.config import Config, DataConfig, DetectionConfig, ModelConfig, OptimizerConfig, ScheduleConfig
from train.config.errors import UserError
from train.data import open_dataset
from train.data.object_pipeline import padded_batch
from train.data.scenes import CLASSES, write_scenes
from train.predict import detect
from train.runs.provenance import digest
from train.tasks.coco_results import Evaluation, coco_results, voc_metrics
from train.tasks.detection import DETECTION

TINY = {
    "backbone": {"stage_sizes": (1, 1, 1, 1), "widths": (8, 8, 8, 8), "stem_width": 8},
    "channels": 8,
    "max_detections": 10,
    "freeze_batch_norm": False,
    "frozen_stages": 0,
}
REGIONS = {"box_hidden": 16, "train_proposals": 16, "test_proposals": 16, "test_candidates": 32}


def config(scenes: Path, name: str = "retinanet_resnet18", **changes: Any) -> Config:
    masks, regions = name.startswith("mask"), not name.startswith("retinanet")
    options = TINY | (REGIONS if regions else {}) | ({"mask_widths": (8,)} if masks else {})
    whole = Config(
        model=ModelConfig(name, options=options),
        data=DataConfig(f"coco:{scenes}", batch_size=8, augmentation="none", num_threads=2),
        detection=DetectionConfig(short_side=64, long_side=64, max_objects=5, mask_stride=2),
        optimizer=OptimizerConfig(learning_rate=1e-3, clip_norm=1.0),
        schedule=ScheduleConfig(kind="constant"),
        total_steps=4,
        evaluate_every_steps=2,
        log_every_steps=2,
    )
    return replace(whole, changes)


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 and 11 scenes: 11 are a batch of 8 and 3 of another."""
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(str(folder), {"train": 16, "val": 11})
    return folder


@pytest.fixture(scope="module")
def finished(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Evaluation]:
    """Folder and evaluation of a run of Mask R-CNN."""
    workdir = tmp_path_factory.mktemp("mask_rcnn")
    return workdir, train(config(drawn, "mask_rcnn_resnet18"), str(workdir))


def test_all_terms_of_the_loss_and_all_numbers_of_coco_are_reported(finished: tuple[Path, Evaluation]):
    workdir, evaluation = finished
    terms = {"objectness_loss", "proposal_loss", "class_loss", "box_loss", "mask_loss"}
    lines = figures(workdir)
    assert [(line["step"], line["split"]) for line in lines] == [
        (s, split) for s in (2, 4) for split in ("train", "test")
    ]
    for line in lines:
        assert line["loss"] == pytest.approx(sum(line[term] for term in terms))
        if line["split"] == "test":
            assert set(line) - {"step", "split", "loss"} - terms <= {
                f"{m}{n}" for m in ("", "mask_") for n in COCO_METRICS
            }
            assert {"AP", "AP50", "AR_100", "mask_AP"} <= set(line)
    summary = json.loads((workdir / "summary.json").read_text())
    assert summary["test_images"] == evaluation.count == 11
    assert {name: summary[f"test_{name}"] for name in evaluation.figures()} == evaluation.figures()


def test_a_run_leaves_results_and_a_table_of_the_classes(finished: tuple[Path, Evaluation], drawn: Path):
    workdir, evaluation = finished
    results = json.loads((workdir / "detections.json").read_text())
    truth = json.loads((drawn / "annotations" / "instances_val.json").read_text())
    assert {entry["image_id"] for entry in results} <= {image["id"] for image in truth["images"]}
    for kind, found in (("bbox", evaluation.boxes), ("segm", evaluation.masks)):
        assert coco_evaluation(truth, results, kind).metrics == found.metrics
    with open(workdir / "per_class.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == list(CLASSES)
    assert set(rows[0]) == {"class"} | {f"{m}{n}" for m in ("", "mask_") for n in ("AP", "AP50", "AP75", "AR_100")}


def test_a_table_of_runs_has_the_columns_of_the_task(finished: tuple[Path, Evaluation], tmp_path: Path):
    workdir, evaluation = finished
    lines = write_table(str(tmp_path), DETECTION, [Row.read("tiny", DETECTION, [str(workdir)], "")], [""], "")
    titles, row = ([cell.strip() for cell in line.split("|")[5:-1]] for line in (lines[2], lines[4]))
    assert titles[:3] == ["test box AP, %", "test box AP50, %", "test mask AP, %"]
    assert float(row[0]) == pytest.approx(100 * evaluation.boxes.metrics["AP"], abs=0.05)


def test_every_image_counts_once_whatever_the_batch(finished: tuple[Path, Evaluation], drawn: Path):
    workdir, evaluation = finished
    run, loaded = config(drawn, "mask_rcnn_resnet18"), load_run(str(workdir))
    split = DETECTION.open(run).test
    find = jax.jit(
        lambda *batch: loaded.model.apply(loaded.variables, loaded.preprocess(batch[0]), *batch[1:], method="predict")
    )
    results: list[dict[str, Any]] = []
    for index, image in enumerate(split.images):
        found = jax.device_get(find(*padded_batch(run, [split.read(index)], (64, 64), 1)))
        results += coco_results(found, [image.size], [image.image_id], split.category_ids)
    assert len(results) == len(evaluation.results) > 0
    for one, other in zip(results, evaluation.results, strict=True):
        assert (one["image_id"], one["category_id"]) == (other["image_id"], other["category_id"])
        np.testing.assert_allclose(one["bbox"], other["bbox"], atol=1e-2)


def test_predict_writes_pictures_and_a_coco_file(
    finished: tuple[Path, Evaluation], drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    workdir, _ = finished
    paths = [str(path) for path in sorted((drawn / "images" / "val").iterdir())[:3]]
    out = tmp_path / "out"
    predict.main([*paths, "--workdir", str(workdir), "--out", str(out), "--min_score", "0.06"])
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    content = json.loads((out / "predictions.json").read_text())
    assert [image["file_name"] for image in content["images"]] == paths
    assert len(lines) == len(content["annotations"]) > 0
    for line, entry in zip(lines, content["annotations"], strict=True):
        x, y, w, h = entry["bbox"]
        assert line[:2] == [paths[entry["image_id"] - 1], CLASSES[entry["category_id"] - 1]]
        np.testing.assert_allclose([float(side) for side in line[3:]], [x, y, x + w, y + h], atol=0.051)
        assert float(line[2]) == pytest.approx(entry["score"], abs=1e-4)
        assert entry["segmentation"]["size"] == [128, 128]
    assert {path.name for path in out.iterdir()} == {"predictions.json", "0000.png", "0001.png", "0002.png"}


def test_evaluate_prints_cocos_numbers_and_a_row_for_each_class(
    finished: tuple[Path, Evaluation], capsys: pytest.CaptureFixture[str]
):
    workdir, evaluation = finished
    evaluate.main(["--workdir", str(workdir)])
    first, *others, last = capsys.readouterr().out.splitlines()
    assert first.startswith(f"step 4: loss {evaluation.losses['loss']:.4f}")
    assert last == f"test_AP={evaluation.boxes.metrics['AP']:.4f}"
    cells = {line.split()[0]: line.split()[1:] for line in others}
    assert set(cells) >= {*COCO_METRICS, *CLASSES}
    masks = evaluation.masks.metrics["AP50"]
    assert cells["AP50"] == [f"{100 * value:.1f}" for value in (evaluation.boxes.metrics["AP50"], masks)]
    with pytest.raises(UserError, match="--crops, --sizes and --resize are for classifiers"):
        evaluate.main(["--workdir", str(workdir), "--crops", "ten"])


def test_the_ground_truth_as_detections_has_an_average_precision_of_one(tmp_path: Path):
    """Of images of other sizes than the net's, with ids of categories that have gaps."""
    sizes, content = [(48, 64), (90, 60)], {"images": [], "annotations": [], "categories": []}
    content["categories"] = [{"id": 7, "name": "dog"}, {"id": 2, "name": "cat"}]
    for number, (height, width) in enumerate(sizes, 1):
        for part in ("train", "val"):
            (tmp_path / part).mkdir(exist_ok=True)
            Image.new("RGB", (width, height)).save(tmp_path / part / f"{number}.png")
        content["images"].append({"id": 10 * number, "file_name": f"{number}.png", "height": height, "width": width})
        for category, (x, y) in ((2, (4, 6)), (7, (24, 20))):
            square = [x, y, x + 16, y, x + 16, y + 20, x, y + 20]
            entry = {"id": len(content["annotations"]) + 5, "image_id": 10 * number, "category_id": category}
            content["annotations"].append(entry | {"bbox": [x, y, 16, 20], "segmentation": [square]})
    for part in ("train", "val"):
        (tmp_path / f"{part}.json").write_text(json.dumps(content))
    settings = {"detection.short_side": 64, "detection.long_side": 96, "data.batch_size": 2}
    made = config(tmp_path, "mask_rcnn_resnet18", **settings)
    dataset = DETECTION.open(made)
    run = DETECTION.define(made, dataset)
    images, outputs = DETECTION.test_images(run, dataset), []
    for batch in DETECTION.evaluation_batches(run, images, (0, 1)):
        rows = np.flatnonzero(batch["mask"])
        scale = (batch["original_size"] / batch["size"])[:, None, [1, 0, 1, 0]]
        found = Detections(
            boxes=batch["boxes"][rows],
            scores=np.where(batch["present"], 0.9, 0)[rows].astype(np.float32),
            classes=batch["label"][rows],
            count=batch["present"].sum(1)[rows],
            original_boxes=(batch["boxes"] * scale)[rows].astype(np.float32),
            masks=np.ones((len(rows), 5, 28, 28), np.float32),
        )
        outputs.append((found, {"index": batch["index"][rows]}))
    evaluation = DETECTION.evaluation(run, images, {"loss": 1.0, "count": 2}, outputs)
    assert {entry["category_id"] for entry in evaluation.results} == {2, 7}
    assert evaluation.boxes.metrics["AP"] == pytest.approx(1)
    assert evaluation.masks.metrics["AP"] == pytest.approx(1)
    assert [row["class"] for row in evaluation.per_class()] == ["cat", "dog"]
    assert DETECTION.lines(evaluation)[-1] == "test_AP=1.0000"


def test_programs_say_what_a_run_holds(finished: tuple[Path, Evaluation], trained: tuple[Path, Any]):
    with pytest.raises(UserError, match=r"holds a detector, mask_rcnn_resnet18: use train\.predict\.detect"):
        list(predict.predict(str(finished[0]), []))
    with pytest.raises(UserError, match=r"holds a classifier.*train\.predict\.predict"):
        list(detect(str(trained[0]), []))
    for flag, value in (("--out", "x"), ("--min_score", "0.1")):
        with pytest.raises(UserError, match=f"{flag} is for detectors"):
            predict.main(["a.png", "--workdir", str(trained[0]), flag, value])
    with pytest.raises(UserError, match="would replace image files there"):
        predict.main(["pictures/a.png", "--workdir", str(finished[0]), "--out", "pictures"])
    with pytest.raises(UserError, match="--min_score=5"):
        predict.main(["a.png", "--workdir", str(finished[0]), "--min_score", "5"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.augmentation": "pad_crop"}, r"data\.augmentation='pad_crop' must be 'none' for the detector"),
        ({"data.image_size": 64}, r"data\.image_size=64 must be None"),
        ({"label_smoothing": 0.1}, "label_smoothing=0.1 must be 0"),
        ({"model.num_classes": 7}, r"model\.num_classes=7, but coco:.* has 6 classes"),
        ({"detection.loss": {"alpa": 0.5}}, r"detection\.loss: .*alpa"),
        ({"model.options": {"backbone": {"stage_size": (1,)}}}, r"model\.options: .*stage_size.*stage_sizes"),
        ({"model.name": "retinanet_resnet19"}, r"model\.name: .*retinanet_resnet18"),
        ({"detection.long_side": 32}, r"detection\.long_side=32 must be from 64"),
    ],
)
def test_settings_that_do_not_fit_are_one_line(drawn: Path, tmp_path: Path, changes: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message) as error:
        train(config(drawn, **changes), str(tmp_path))
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_classifier_takes_no_settings_of_detectors():
    with pytest.raises(UserError, match="detection settings are for detectors"):
        Config(detection=DetectionConfig(short_side=400), total_steps=1)
    with pytest.raises(UserError, match="is for detectors, such as retinanet_resnet50"):
        open_dataset(DataConfig("coco:photos"))


@pytest.mark.parametrize("part", ["train", "val"])
def test_images_without_any_object_are_refused(drawn: Path, tmp_path: Path, part: str):
    shutil.copytree(drawn, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "annotations" / f"instances_{part}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"annotations": []}))
    with pytest.raises(UserError, match=f"instances_{part}.json has no objects in"):
        DETECTION.open(config(tmp_path))


def test_what_is_left_out_of_the_data_is_said(drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    shutil.copytree(drawn, tmp_path, dirs_exist_ok=True)
    (tmp_path / "images" / "val" / "0000.png").unlink()
    path = tmp_path / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["iscrowd"] = 1
    path.write_text(json.dumps(content))
    DETECTION.open(config(tmp_path, **{"detection.max_objects": 2}))
    said = capsys.readouterr().err
    assert "1 crowd annotations left out" in said
    assert "1 images whose file is missing left out" in said
    assert "beyond detection.max_objects=2" in said


def test_voc_counts_classes_that_have_objects():
    truth = {
        "categories": [{"id": 1}, {"id": 2}, {"id": 3}],
        "annotations": [
            {"image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 10], "iscrowd": 0},
            {"image_id": 1, "category_id": 2, "bbox": [0, 0, 10, 10], "iscrowd": 0},
            {"image_id": 1, "category_id": 2, "bbox": [50, 0, 10, 10], "iscrowd": 1},
        ],
    }
    results = [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 10], "score": 0.9}]
    assert voc_metrics(truth, results) == pytest.approx({"VOC07_AP": 0.5, "VOC12_AP": 0.5})


class Runs:
    """Trains on two devices, in one process or two."""

    def __init__(self, cache: Path, settings: str) -> None:
        self._cache, self._settings = cache, settings

    def train(self, workdir: Path, count: int = 1, kill_at: int | None = None) -> list[str]:
        def command(process: int, port: int) -> list[str]:
            where = flags(process, count, port) if count > 1 else []
            return ["-m", "train", self._settings, f"--workdir={workdir}", *where]

        with processes(command, count, 2 // count, lambda process, port: cached(self._cache)) as started:
            if kill_at is not None:
                started[0].wait_for(f"step {kill_at}/")
                return started[0].out
            for process in started:
                assert process.finish(600) == 0, process.err
            return started[0].out


@pytest.fixture(scope="module")
def runs(cache: Path, drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    changes = {"total_steps": 24, "checkpoint_every_steps": 4, "evaluate_every_steps": 12, "log_every_steps": 2}
    path = tmp_path_factory.mktemp("settings") / "tiny.py"
    path.write_text(
        "from pathlib import Path\n"
        "from tests.train.tasks.test_detection import config as tiny\n"
        f"config = tiny(Path({str(drawn)!r}), **{changes!r})\n"
    )
    return Runs(cache, str(path))


@pytest.fixture(scope="module")
def unbroken(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("unbroken")
    runs.train(workdir)
    return workdir


def outcome(workdir: Path) -> tuple[str, list[dict[str, Any]]]:
    """The digest of the last state, and all figures."""
    return digest(load_run(str(workdir)).variables), figures(workdir)


@pytest.mark.slow
def test_a_killed_run_goes_on_as_the_unbroken_one(runs: Runs, unbroken: Path, tmp_path: Path):
    runs.train(tmp_path, kill_at=18)
    assert not (tmp_path / "summary.json").exists()
    assert any(f"{tmp_path} resumes at step" in line for line in runs.train(tmp_path))
    assert 0 < json.loads((tmp_path / "summary.json").read_text())["resumed_at_step"] < 24
    assert outcome(tmp_path) == outcome(unbroken)
    assert (tmp_path / "detections.json").read_text() == (unbroken / "detections.json").read_text()


@pytest.mark.slow
@pytest.mark.full
def test_two_processes_gather_the_detections_that_one_has(runs: Runs, unbroken: Path, tmp_path: Path):
    workdir = Path(shutil.copytree(unbroken, tmp_path / "run"))
    shutil.rmtree(workdir / "checkpoints" / "24")
    assert any("resumes at step 20 of 24" in line for line in runs.train(workdir, count=2))
    assert json.loads((workdir / "summary.json").read_text())["test_images"] == 11
    assert outcome(workdir) == outcome(unbroken)
    assert (workdir / "detections.json").read_text() == (unbroken / "detections.json").read_text()
