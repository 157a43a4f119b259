"""Runs in this process, on 8 devices: their files, how they resume, and the use of what they learnt."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from PIL import Image

import train
from attnjax.training import Aux, Normalize
from tests.kinds import only_in_full
from tests.train.support import ROOT, figures, reader_of_split, small
from train import evaluate, load_run, predict
from train import train as train_run
from train.config import Config
from train.config.errors import UserError
from train.data import evaluation_batches, open_dataset
from train.hosts import processes
from train.runs import provenance as versions
from train.runs import report, session
from train.runs.checkpoint import Checkpoints
from train.runs.provenance import digest
from train.runs.setup import Setup
from train.tasks import plots
from train.tasks.classification import CLASSIFICATION, Classification, Evaluation
from train.tasks.recipe import Run
from train.tasks.task import Objective

Trained = tuple[Path, Evaluation]


def steps_kept(workdir: Path) -> list[int]:
    checkpoints = Checkpoints(str(workdir / "checkpoints"), read_only=True)
    steps = checkpoints.steps()
    checkpoints.close()
    return steps


def interrupt(monkeypatch: pytest.MonkeyPatch, config: Config, workdir: Path, step: int) -> None:
    """Trains until the log of a step, which is not written any more."""

    def training(self: report.Report, at: int, figures: dict[str, float]) -> None:
        if at == step:
            raise KeyboardInterrupt
        original(self, at, figures)

    original = report.Report.training
    with monkeypatch.context() as patched:
        patched.setattr(report.Report, "training", training)
        with pytest.raises(KeyboardInterrupt):
            train_run(config, str(workdir))
    assert not (workdir / "summary.json").exists()


@pytest.fixture
def copied(trained: Trained, tmp_path: Path) -> Path:
    """A copy of the finished run, to write to."""
    return Path(shutil.copytree(trained[0], tmp_path / "copied"))


def test_a_run_leaves_its_files(trained: Trained):
    workdir, result = trained
    files = {"config.json", "metrics.jsonl", "summary.json", "curves.png", "confusion.png", "confusion.csv"}
    assert {path.name for path in workdir.iterdir()} == files | {"checkpoints", "lock", "tensorboard"}
    for name in ("curves.png", "confusion.png"):
        with Image.open(workdir / name) as picture:
            assert min(picture.size) > 200
    summary = json.loads((workdir / "summary.json").read_text())
    assert (summary["steps"], summary["test_images"], summary["unreadable_images"]) == (6, 360, [])
    assert (summary["test_accuracy"], summary["test_loss"]) == (result.accuracy, result.loss)


def test_config_json_says_what_ran(trained: Trained):
    stored = json.loads((trained[0] / "config.json").read_text())
    assert (stored["num_examples"], stored["image_shape"]) == (1437, [8, 8, 1])
    assert stored["class_names"] == list("0123456789")
    assert stored["config"]["optimizer"]["learning_rate"] == 0.1
    assert stored["versions"]["jax"] == jax.__version__
    assert set(stored["versions"]) >= {
        "python",
        "jax",
        "jaxlib",
        "flax",
        "optax",
        "orbax-checkpoint",
        "grain",
        "numpy",
    }
    assert stored["devices"] == ["cpu"] * 8
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    commit = stored["git_commit"]
    assert (commit and commit.removesuffix("-dirty")) == (head.stdout.strip() or None)


def test_the_commit_is_named_by_its_hash_in_a_tagged_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def git(*arguments: str) -> str:
        who = (
            "-c",
            "user.name=a",
            "-c",
            "user.email=a@b",
            "-c",
            "tag.gpgSign=false",
            "-c",
            "commit.gpgSign=false",
        )
        done = subprocess.run(["git", *who, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    git("init")
    (tmp_path / "run.py").write_text("")
    git("add", "run.py")
    git("commit", "-m", "one")
    git("tag", "-a", "v1", "-m", "v1")
    monkeypatch.setattr(versions, "__file__", str(tmp_path / "run.py"))
    assert versions.git_commit() == git("rev-parse", "HEAD")
    (tmp_path / "run.py").write_text("changed")
    assert versions.git_commit() == git("rev-parse", "HEAD") + "-dirty"


def test_metrics_have_a_line_for_each_log_and_each_evaluation(trained: Trained):
    workdir, result = trained
    lines = figures(workdir)
    assert [(line["step"], line["split"]) for line in lines] == [
        (step, split) for step in (2, 4, 6) for split in ("train", "test")
    ]
    told = {"loss": result.loss, "accuracy": result.accuracy, "top5_accuracy": result.top5_accuracy}
    assert lines[-1] == {"step": 6, "split": "test", **told}
    assert result.accuracy < result.top5_accuracy <= 1
    for line in lines[::2]:
        assert (line["accuracy"] * 32) % 1 == 0
        assert 1 < line["loss"] < 10


def test_tensorboard_shows_what_the_metrics_say(trained: Trained):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(trained[0] / "tensorboard"))
    events.Reload()
    shown = {event.step: event.value for event in events.Scalars("test/accuracy")}
    told = {line["step"]: line["accuracy"] for line in figures(trained[0]) if line["split"] == "test"}
    assert shown == pytest.approx(told)
    assert {"train/loss", "train/learning_rate", "train/images_per_second"} <= set(events.Tags()["scalars"])


def test_the_confusion_matrix_has_every_test_image(trained: Trained):
    workdir, result = trained
    with open(workdir / "confusion.csv") as file:
        header, *rows = list(csv.reader(file))
    matrix = np.asarray([[int(cell) for cell in row[1:]] for row in rows])
    assert (header, [row[0] for row in rows]) == (["true", *"0123456789"], list("0123456789"))
    np.testing.assert_array_equal(matrix, result.confusion)
    assert np.trace(matrix) / 360 == result.accuracy
    test = open_dataset(small().data).test
    labels = [test[index][1] for index in range(len(test))]
    np.testing.assert_array_equal(matrix.sum(axis=1), np.bincount(labels))


def test_the_last_and_the_best_checkpoints_are_kept(trained: Trained):
    tested = {line["step"]: line["accuracy"] for line in figures(trained[0]) if line["split"] == "test"}
    best = max(tested, key=lambda step: tested[step])
    assert len(set(tested.values())) == 3
    assert steps_kept(trained[0]) == sorted({4, 6, best})


@pytest.mark.parametrize("which", ["last", "best", "4"])
def test_evaluate_says_again_what_training_said(trained: Trained, which: str, capsys: pytest.CaptureFixture[str]):
    tested = {line["step"]: line["accuracy"] for line in figures(trained[0]) if line["split"] == "test"}
    accuracy = {"last": tested[6], "best": max(tested.values()), "4": tested[4]}[which]
    evaluate.main(["--workdir", str(trained[0]), "--checkpoint", which])
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == f"test_accuracy={accuracy:.4f}"
    assert said[-2].startswith("test_top5_accuracy=0.")
    assert said[-3].endswith("on 360 images")


def test_evaluate_prints_the_digest_of_what_load_run_gives(trained: Trained, capsys: pytest.CaptureFixture[str]):
    evaluate.main(["--workdir", str(trained[0]), "--digest"])
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == digest(load_run(str(trained[0])).variables)
    assert said[-2] == f"test_accuracy={trained[1].accuracy:.4f}"


def test_load_run_gives_what_reaches_the_same_accuracy(trained: Trained):
    workdir, result = trained
    model, variables, class_names = train.load_run(str(workdir))
    assert class_names == tuple("0123456789")
    assert set(variables) == {"params", "batch_stats"}
    config = small().data
    apply = jax.jit(lambda images: model.apply(variables, Normalize(config.mean, config.std)(images), train=False))
    right = 0
    for batch in evaluation_batches(reader_of_split(open_dataset(config).test, config)):
        answers = np.asarray(apply(jnp.asarray(batch["image"]))).argmax(-1)
        right += int(((answers == batch["label"]) & batch["mask"]).sum())
    assert right / 360 == result.accuracy


def test_predict_prints_path_class_and_probability(
    trained: Trained, digit_files: list[Path], capsys: pytest.CaptureFixture[str]
):
    predict.main([*map(str, digit_files), "--workdir", str(trained[0])])
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    model, variables, class_names = load_run(str(trained[0]))
    test = open_dataset(small().data).test
    images = np.stack([test[index][0] for index in range(5)])
    logits: Any = model.apply(
        variables, Normalize(small().data.mean, small().data.std)(jnp.asarray(images)), train=False
    )
    shares = np.asarray(jax.nn.softmax(logits))
    assert [line[0] for line in lines] == [str(path) for path in digit_files]
    assert [line[1] for line in lines] == [class_names[row.argmax()] for row in shares]
    assert all(re.fullmatch(r"[01]\.\d{4}", line[2]) for line in lines)
    np.testing.assert_allclose([float(line[2]) for line in lines], shares.max(-1), atol=1e-4)


def test_predict_takes_more_images_than_a_batch_one_by_one_alike(trained: Trained, digit_files: list[Path]):
    paths = [str(path) for path in digit_files] * 7
    many = list(predict.predict(str(trained[0]), paths))
    few = list(predict.predict(str(trained[0]), paths[:1])) + list(predict.predict(str(trained[0]), paths[1:5]))
    assert [line.path for line in many] == paths
    for start in range(0, 35, 5):
        for one, two in zip(many[start : start + 5], few, strict=True):
            assert (one.path, one.class_name) == (two.path, two.class_name)
            assert one.probability == pytest.approx(two.probability, rel=1e-5)


def test_predict_brings_images_to_the_size_of_the_net(trained: Trained, digit_files: list[Path], tmp_path: Path):
    with Image.open(digit_files[0]) as digit:
        large = digit.convert("RGB").resize((16, 16), Image.Resampling.NEAREST)
    large.save(tmp_path / "large.png")
    large.resize((8, 8), Image.Resampling.BILINEAR).save(tmp_path / "small.png")
    paths = [str(tmp_path / f"{size}.png") for size in ("small", "large")]
    small_one, large_one = predict.predict(str(trained[0]), paths)
    assert small_one[1:] == pytest.approx(large_one[1:])


def test_a_finished_run_says_so_and_gives_the_same_figures(
    trained: Trained, copied: Path, capsys: pytest.CaptureFixture[str]
):
    before = {path: path.read_bytes() for path in copied.glob("*.*") if path.name != "config.json"}
    again = train_run(small(), str(copied))
    assert (again.accuracy, again.loss) == (trained[1].accuracy, trained[1].loss)
    np.testing.assert_array_equal(again.confusion, trained[1].confusion)
    assert f"{copied} is finished at step 6" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize(("step", "resumed_at"), [only_in_full(2, 0), (4, 2), only_in_full(6, 4)])
def test_an_interrupted_run_resumes_as_if_nothing_had_been(
    trained: Trained,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    step: int,
    resumed_at: int,
):
    workdir = tmp_path / "run"
    interrupt(monkeypatch, small(), workdir, step)
    capsys.readouterr()
    result = train_run(small(), str(workdir))
    said = capsys.readouterr().out
    assert (f"resumes at step {resumed_at} of 6" in said) == (resumed_at > 0)
    assert digest(load_run(str(workdir)).variables) == digest(load_run(str(trained[0])).variables)
    assert (result.accuracy, result.loss) == (trained[1].accuracy, trained[1].loss)
    assert figures(workdir) == figures(trained[0])


def test_a_run_cut_at_a_step_without_checkpoint_takes_back_what_came_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: Trained
):
    rarely = small({"checkpoint_every_steps": 4, "evaluate_every_steps": 100, "log_every_steps": 1})
    interrupt(monkeypatch, rarely, tmp_path / "run", 6)
    assert [line["step"] for line in figures(tmp_path / "run")] == [1, 2, 3, 4, 5]
    with open(tmp_path / "run" / "metrics.jsonl", "a") as file:
        file.write('{"step": 6, "spl')  # as a kill may leave it
    train_run(rarely, str(tmp_path / "run"))
    steps = [(line["step"], line["split"]) for line in figures(tmp_path / "run")]
    assert steps == [(step, "train") for step in range(1, 7)] + [(6, "test")]
    assert digest(load_run(str(tmp_path / "run")).variables) == digest(load_run(str(trained[0])).variables)


def test_an_averaging_run_resumes_bit_for_bit_and_is_used_averaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: Trained, capsys: pytest.CaptureFixture[str]
):
    config = small({"ema_decay": 0.5})
    straight = train_run(config, str(tmp_path / "straight"))
    interrupt(monkeypatch, config, tmp_path / "run", 4)
    resumed = train_run(config, str(tmp_path / "run"))
    assert (resumed.loss, resumed.accuracy) == (straight.loss, straight.accuracy)
    average = digest(load_run(str(tmp_path / "run")).variables)
    assert average == digest(load_run(str(tmp_path / "straight")).variables)
    assert average != digest(load_run(str(trained[0])).variables)
    capsys.readouterr()
    evaluate.main(["--workdir", str(tmp_path / "straight")])
    assert f"test_loss={straight.loss:.4f} on" in capsys.readouterr().out


def test_a_run_goes_on_with_another_duration_and_other_intervals(copied: Path, capsys: pytest.CaptureFixture[str]):
    longer = {"total_steps": None, "total_epochs": 0.08}  # 0.08 * 1437 / 16 = 7.2
    config = Config(**{**vars(small({"log_every_steps": 1, "checkpoint_every_steps": 1})), **longer})
    train_run(config, str(copied))
    assert f"{copied} resumes at step 6 of 8" in capsys.readouterr().out
    steps = [(line["step"], line["split"]) for line in figures(copied)]
    assert steps[-3:] == [(7, "train"), (8, "train"), (8, "test")]
    assert len(steps) == len(set(steps)) == 9
    assert steps_kept(copied)[-2:] == [7, 8]
    stored = json.loads((copied / "config.json").read_text())["config"]
    assert (stored["total_steps"], stored["total_epochs"]) == (None, 0.08)
    assert json.loads((copied / "summary.json").read_text())["steps"] == 8


class OtherSums(Classification):
    """Classification whose loss does not count correct answers."""

    def objective(self, run: Run, model: nn.Module) -> Objective:
        objective = super().objective(run, model)

        def loss(*arguments: Any, **keywords: Any) -> tuple[jax.Array, Aux]:
            value, aux = objective.loss(*arguments, **keywords)
            return value, aux._replace(sums={name: each for name, each in aux.sums.items() if name != "correct"})

        return objective._replace(loss=loss)


def test_a_checkpoint_with_the_sums_of_another_loss_is_refused(copied: Path):
    before = (copied / "metrics.jsonl").read_bytes()
    with pytest.raises(UserError, match=r"step 6 has the sums correct, count, loss; the loss has count, loss$"):
        train_run(small({"total_steps": 8}), str(copied), OtherSums())
    assert (copied / "metrics.jsonl").read_bytes() == before


def test_a_duration_that_is_over_already_is_refused(copied: Path):
    before = (copied / "metrics.jsonl").read_bytes()
    with pytest.raises(UserError, match="step 6"):
        train_run(small({"total_steps": 4}), str(copied))
    assert (copied / "metrics.jsonl").read_bytes() == before
    assert json.loads((copied / "summary.json").read_text())["steps"] == 6


def test_a_run_that_went_on_is_not_finished_at_its_old_end(copied: Path, monkeypatch: pytest.MonkeyPatch):
    longer = small({"total_steps": 8, "checkpoint_every_steps": 1, "log_every_steps": 1})
    with monkeypatch.context() as patched:
        patched.setattr(report.Report, "finish", lambda *_: None)  # killed before summary.json
        train_run(longer, str(copied))
    assert steps_kept(copied)[-1] == 8
    with pytest.raises(UserError, match="step 8"):
        train_run(small(), str(copied))


def test_a_run_that_was_killed_while_it_drew_is_not_finished(copied: Path, monkeypatch: pytest.MonkeyPatch):
    (copied / "summary.json").unlink()
    (copied / "confusion.png").unlink()
    with monkeypatch.context() as patched:
        patched.setattr(plots, "draw_confusion", lambda *_: sys.exit("killed"))
        with pytest.raises(SystemExit):
            train_run(small(), str(copied))
    assert not report.is_finished(str(copied), 6)
    train_run(small(), str(copied))
    assert report.is_finished(str(copied), 6)
    assert (copied / "confusion.png").exists()


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("optimizer.learning_rate", 0.1, 0.2),
        ("seed", 0, 1),
        ("data.batch_size", 16, 32),
        ("schedule.kind", "cosine", "step"),
        ("ema_decay", None, 0.9),
    ],
)
def test_other_settings_belong_to_another_run(trained: Trained, name: str, old: object, new: object):
    message = f"belongs to another run ({name} is {old!r} there, {new!r} here)"
    with pytest.raises(UserError, match=re.escape(message)):
        train_run(small({name: new}), str(trained[0]))
    assert json.loads((trained[0] / "config.json").read_text())["config"]["seed"] == 0


def test_another_seed_gives_another_net(trained: Trained, tmp_path: Path):
    train_run(small({"seed": 1}), str(tmp_path))
    one, two = (load_run(str(path)).variables for path in (tmp_path, trained[0]))
    assert digest(one) != digest(two)


def test_bfloat16_trains_and_keeps_float32_variables(tmp_path: Path):
    result = train_run(small({"model.dtype": "bfloat16", "total_steps": 2}), str(tmp_path))
    assert 0.5 < result.loss < 10
    assert {leaf.dtype.name for leaf in jax.tree.leaves(load_run(str(tmp_path)).variables)} == {"float32"}


def test_a_run_that_failed_before_its_first_checkpoint_gives_its_folder_up(tmp_path: Path):
    with pytest.raises(UserError, match="not finite at step"):
        train_run(small({"optimizer.learning_rate": 1e30, "schedule.warmup": 0.0}), str(tmp_path / "run"))
    evaluation = train_run(small(), str(tmp_path / "run"))
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["test_accuracy"] == evaluation.accuracy


@pytest.mark.parametrize("name", ["summary.json", "metrics.jsonl"])
@pytest.mark.parametrize("content", [b'{"ste', b"[]", b'{"a": 1}\n', b"\xff\xfe}\n"])
def test_damaged_reports_do_not_stop_a_run(trained: Trained, tmp_path: Path, name: str, content: bytes):
    shutil.copytree(trained[0], tmp_path / "run")
    (tmp_path / "run" / name).write_bytes(content)
    assert train_run(small(), str(tmp_path / "run")).accuracy == trained[1].accuracy


def test_a_foreign_config_json_is_left_alone(tmp_path: Path):
    (tmp_path / "config.json").write_text('{"name": "precious"}')
    with pytest.raises(UserError, match=re.escape(str(tmp_path / "config.json"))):
        train_run(small(), str(tmp_path))
    assert (tmp_path / "config.json").read_text() == '{"name": "precious"}'


def test_a_damaged_checkpoint_is_named(trained: Trained, tmp_path: Path):
    shutil.copytree(trained[0], tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "6" / "state" / "_METADATA").write_text("{")
    with pytest.raises(UserError, match=r"checkpoints/6 is damaged \(.*\): step 4 is the newest intact one"):
        load_run(str(tmp_path / "run"))


def test_config_json_remembers_the_start_and_every_resume(tmp_path: Path):
    for steps in (2, 4):
        train_run(small({"total_steps": steps}), str(tmp_path))
    train_run(small({"total_steps": 4}), str(tmp_path))
    stored = json.loads((tmp_path / "config.json").read_text())
    assert len(stored["resumed"]) == 1
    assert stored["resumed"][0]["date"] >= stored["date"]
    assert stored["config"]["total_steps"] == 4


@pytest.mark.parametrize(("name", "value"), [("seed", 1), ("training images", 3), ("jax", "0.0")])
def test_processes_that_differ_do_not_train(monkeypatch: pytest.MonkeyPatch, name: str, value: object):
    monkeypatch.setattr(processes, "gather", lambda about, mine: [mine, mine, mine | {name: value}])
    with pytest.raises(
        UserError, match=rf"all processes must have the same settings: {name} is .* and {value!r} in process 2"
    ):
        Setup.create(small(), CLASSIFICATION)


def test_a_work_directory_that_is_not_shared_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(session, "gather", lambda about, mine: [mine, ["/b", False], mine, ["/c", False]])
    with pytest.raises(UserError, match=f"{tmp_path} of process 0 is not /b of process 1, nor /c of process 3"):
        session._check_same_folder(str(tmp_path), "")


def test_the_images_of_a_device_are_recorded_as_a_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def claim(run: Run, *_: str) -> None:
        raise UserError(f"batch norm over {run.config.parallel.batch_norm} images")

    monkeypatch.setattr(session, "claim", claim)
    with pytest.raises(UserError, match="batch norm over 4 images"):
        train_run(small({"parallel.batch_norm": "device", "data.batch_size": 32}), str(tmp_path))
