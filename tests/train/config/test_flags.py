"""What the user can mend ends in one line on standard error, beginning with `error: `, and exit code 2."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from tests.train.support import DIGITS, ROOT, SMALL, run, small, write_images
from train import evaluate, load_run, predict, train
from train.__main__ import Arguments, main
from train.config import Config, from_dict
from train.config.errors import UserError
from train.config.flags import find_config, parse, program, read_config_file, with_duration_of
from train.runs import loop
from train.runs.checkpoint import Checkpoints
from train.tasks.classification import Evaluation

Fails = Callable[..., str]


def parsed(*flags: str) -> Config:
    config = with_duration_of(read_config_file(DIGITS), flags)
    return parse(Arguments, flags, default=Arguments(config, "runs/x"), prog="train").config


@pytest.fixture
def config_file(tmp_path: Path) -> Callable[[str], str]:
    def write(text: str) -> str:
        path = tmp_path / "mine.py"
        path.write_text("from train.config import *\n" + text)
        return str(path)

    return write


def test_flags_replace_settings_of_every_type():
    config = parsed(
        *(
            "--optimizer.learning_rate",
            "0.2",
            "--optimizer.nesterov",
            "False",
            "--optimizer.clip_norm",
            "1.5",
        ),
        *("--data.mean", "0.1", "0.2", "0.3", "--data.image_size=16", "--model.dtype", "bfloat16"),
    )
    optimizer = config.optimizer
    assert (optimizer.learning_rate, optimizer.nesterov, optimizer.clip_norm) == (0.2, False, 1.5)
    assert (config.data.mean, config.data.image_size, config.model.dtype) == ((0.1, 0.2, 0.3), 16, "bfloat16")
    assert (config.total_epochs, config.data.batch_size) == (60, 64)


@pytest.mark.parametrize("flags", [("--total_steps", "5"), ("--total_steps=5",)])
def test_a_duration_on_the_command_line_replaces_the_configs(flags: tuple[str, ...]):
    config = parsed(*flags)
    assert (config.total_steps, config.total_epochs, config.total_examples) == (5, None, None)


def test_a_process_says_an_error_in_one_line():
    done = run("train", "--optimizer.learing_rate", "1")
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"error: .*--optimizer\.learning_rate.*\n", done.stderr)


def test_a_process_that_reads_checkpoints_says_an_error_in_one_line(trained: tuple[Path, Evaluation]):
    done = run("train.evaluate", "--workdir", trained[0], "--checkpoint", "99")
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"error: checkpoint='99' .*\n", done.stderr)


def test_an_unknown_flag_names_the_nearest(fails: Fails):
    line = fails(main, DIGITS, "--optimizer.learing_rate", 1)
    assert "--optimizer.learing_rate" in line
    assert "--optimizer.learning_rate" in line


@pytest.mark.parametrize(
    ("text", "nearest"),
    [
        ("\nconfig = Config(optimizer=OptimizerConfig(learing_rate=1))", "optimizer.learning_rate"),
        ("\nconfig = Config(data=DataConfig(bath_size=1))", "data.batch_size"),
        ("\nconfig = Config(total_step=1)", "total_steps"),
    ],
)
def test_an_unknown_setting_in_a_config_file_names_line_and_nearest(
    fails: Fails, config_file: Callable[[str], str], text: str, nearest: str
):
    path = config_file(text)
    line = fails(main, path)
    assert line.startswith(f"error: {path}, line 3: unknown setting ")
    assert line.endswith(f"did you mean {nearest}?")


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--data.batch_size", "many"),
        ("--optimizer.learning_rate", "fast"),
        ("--data.flip", "maybe"),
        ("--model.dtype", "float16"),
        ("--data.batch_size", "0"),
    ],
)
def test_a_wrong_value_on_the_command_line_is_named(fails: Fails, flag: str, value: str):
    line = fails(main, DIGITS, flag, value)
    assert flag.rpartition(".")[2] in line
    assert value in line


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--parallel.batch_norm globl", "=globl must be global, device or an integer: did you mean global?"),
        ("--parallel.batch_norm=1.5", "=1.5 must be global, device or an integer"),
        ("--parallel.engine pjit", "=pjit must be jit or pmap: did you mean jit?"),
        ("--data.channels 2", "=2 must be 1, 3 or None"),
        ("--model.num_classes abc", "=abc must be None or an integer"),
        ("--data.batch_size 1.5", "=1.5 must be an integer"),
        ("--optimizer.learning_rate fast", "=fast must be a number"),
        ("--data.mean 0.1 a", "=0.1 a must be numbers"),
        ("--num_processes two", "=two must be None or an integer"),
    ],
)
def test_a_wrong_value_on_the_command_line_tells_what_is_allowed(fails: Fails, flags: str, message: str):
    assert fails(main, DIGITS, *flags.split()) == f"error: {re.split('[ =]', flags)[0]}{message}"


def test_a_wrong_type_in_a_config_file_is_named(fails: Fails, config_file: Callable[[str], str]):
    path = config_file('config = Config(data=DataConfig(batch_size="64"), total_steps=1)')
    assert fails(main, path) == f"error: {path}, line 2: data.batch_size='64' must be of type int"


def test_a_config_file_that_fails_names_its_line(fails: Fails, config_file: Callable[[str], str]):
    path = config_file("\nconfig = Config(total_steps=1 / 0)")
    assert fails(main, path) == f"error: {path}, line 3: ZeroDivisionError: division by zero"


def test_a_config_file_that_is_no_python_names_its_line(fails: Fails, config_file: Callable[[str], str]):
    path = config_file("config = (")
    assert fails(main, path).startswith(f"error: {path}, line 2: SyntaxError: ")


def test_a_config_file_without_config_is_refused(fails: Fails, config_file: Callable[[str], str]):
    assert "must define config = Config(...)" in fails(main, config_file("conf = 1"))


def test_a_missing_config_file_names_the_nearest(fails: Fails):
    wrong = DIGITS.replace("digits_cbam", "digit_cbam")
    assert fails(main, wrong) == f"error: there is no config file {wrong}: did you mean {DIGITS}?"


def test_a_config_is_found_by_its_name_alone_in_any_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits_cbam").mkdir()
    assert find_config("digits_cbam") == DIGITS
    assert read_config_file("digits_cbam") == read_config_file(DIGITS)


@pytest.mark.parametrize("name", ["digits_cbma", "configs/digits_cbam.py"])
def test_an_unknown_name_of_a_config_gives_the_nearest(fails: Fails, name: str):
    assert fails(main, name) == f"error: there is no config file {name}: did you mean digits_cbam?"


def test_a_name_that_two_configs_share_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fails: Fails):
    for path in (tmp_path / "a" / "same.py", tmp_path / "b" / "same.py"):
        path.parent.mkdir()
        path.write_text("")
    monkeypatch.setattr("train.config.flags._CONFIGS", tmp_path)
    line = fails(main, "same")
    assert str(tmp_path / "a" / "same.py") in line
    assert str(tmp_path / "b" / "same.py") in line


def test_an_unknown_model_names_the_nearest(fails: Fails):
    line = fails(main, DIGITS, "--model.name", "cbam_resnet20_cifra")
    assert "cbam_resnet20_cifra" in line
    assert "cbam_resnet20_cifar" in line.replace("cbam_resnet20_cifra'", "")


def test_two_durations_are_refused_on_the_command_line(fails: Fails):
    line = fails(main, DIGITS, "--total_steps", 5, "--total_epochs", 1)
    assert "exactly one of total_steps, total_epochs, total_examples" in line
    assert line.endswith("got total_steps and total_epochs")


def test_two_durations_are_refused_in_a_config_file(fails: Fails, config_file: Callable[[str], str]):
    line = fails(main, config_file("config = Config(total_steps=5, total_examples=1)"))
    assert line.endswith("got total_steps and total_examples")


@pytest.mark.parametrize(
    ("flag", "value"), [("--total_epochs", "inf"), ("--total_epochs", "nan"), ("--seed", "1" * 30)]
)
def test_a_number_beyond_all_bounds_is_refused(fails: Fails, tmp_path: Path, flag: str, value: str):
    assert flag[2:] in fails(main, SMALL, flag, value, "--workdir", tmp_path / "run")


def test_a_batch_that_the_devices_cannot_share_is_refused(fails: Fails, tmp_path: Path):
    line = fails(main, DIGITS, "--data.batch_size", 20, "--workdir", tmp_path / "run")
    assert line == "error: data.batch_size=20 cannot be divided evenly among 8 devices: use 16"


def test_a_number_of_classes_that_the_data_have_not_is_refused(fails: Fails, tmp_path: Path):
    line = fails(main, DIGITS, "--model.num_classes", 7, "--workdir", tmp_path / "run")
    assert line == "error: model.num_classes=7, but digits has 10 classes"


def test_a_mean_for_other_channels_is_refused(fails: Fails, tmp_path: Path):
    line = fails(main, DIGITS, "--data.mean", 0.1, 0.2, 0.3, "--workdir", tmp_path / "run")
    assert line == "error: data.mean=(0.1, 0.2, 0.3) does not fit 1 channels"


def test_images_of_different_sizes_need_an_image_size(fails: Fails, folder: Path, tmp_path: Path):
    write_images(folder / "train" / "b", shape=(9, 8))
    line = fails(main, SMALL, "--data.source", f"folder:{folder}", "--workdir", tmp_path / "run")
    assert "(9, 8, 3)" in line
    assert "set data.image_size" in line


def test_an_unreadable_training_image_is_named(fails: Fails, folder: Path, tmp_path: Path):
    bad = folder / "train" / "b" / "00.png"
    bad.write_bytes(b"no image")
    line = fails(main, SMALL, "--data.source", f"folder:{folder}", "--workdir", tmp_path / "run")
    assert line.startswith(f"error: cannot read image {bad}")


@pytest.mark.parametrize("below", ["run", "deep/run"])
def test_a_work_directory_that_cannot_be_made_is_named(fails: Fails, tmp_path: Path, below: str):
    (tmp_path / "file").write_text("")
    workdir = tmp_path / "file" / below
    line = fails(main, DIGITS, "--workdir", workdir)
    assert line.startswith(f"error: cannot write to work directory {workdir}: ")


def test_a_work_directory_that_is_a_file_is_named(fails: Fails, tmp_path: Path):
    (tmp_path / "file").write_text("")
    assert str(tmp_path / "file") in fails(main, DIGITS, "--workdir", tmp_path / "file")


def test_the_work_directory_of_another_run_names_setting_and_both_values(
    fails: Fails, trained: tuple[Path, Evaluation]
):
    flags = ("--total_steps", 6, "--optimizer.learning_rate", 0.2)
    line = fails(main, SMALL, *flags, "--workdir", trained[0])
    said = f"error: {trained[0]} belongs to another run (optimizer.learning_rate is 0.1 there, 0.2 here)"
    assert line.startswith(said)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_a_good_checkpoint(fails: Fails, tmp_path: Path):
    flags = ("--total_steps", 6, "--checkpoint_every_steps", 1, "--schedule.warmup", 0.5)
    line = fails(main, SMALL, *flags, "--optimizer.learning_rate", 1e30, "--workdir", tmp_path)
    step, kept = map(int, re.findall(r"at step (\d+) \(the last good checkpoint is step (\d+)\)", line)[0])
    assert (kept, step) == (1, 2)  # the first step of a warm-up has rate 0
    checkpoints = Checkpoints(str(tmp_path / "checkpoints"), read_only=True)
    assert checkpoints.steps()[-1] == kept
    checkpoints.close()
    variables = load_run(str(tmp_path), str(kept)).variables
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(variables))
    assert not (tmp_path / "summary.json").exists()


def test_a_tfds_set_that_is_not_prepared_says_how_to_prepare_it(fails: Fails, tmp_path: Path):
    source = ("--data.source", "tfds:mnist", "--data.tfds_dir", tmp_path)
    line = fails(main, DIGITS, *source, "--workdir", tmp_path / "run")
    assert f"tfds:mnist is not prepared in {tmp_path}" in line
    assert f"tfds build mnist --file_format=array_record --data_dir={tmp_path}" in line


def test_a_tfds_set_whose_files_are_fetched_by_hand_names_them(fails: Fails, tmp_path: Path):
    source = ("--data.source", "tfds:imagenet2012", "--data.tfds_dir", tmp_path)
    line = fails(main, DIGITS, *source, "--workdir", tmp_path / "run")
    assert f"tfds build imagenet2012 --file_format=array_record --data_dir={tmp_path} --manual_dir=DIR" in line
    assert "ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar" in line
    assert line.endswith("or take folder:PATH, with a folder for each class")


def test_an_unknown_tfds_set_names_the_nearest(fails: Fails, tmp_path: Path):
    source = ("--data.source", "tfds:cifar1", "--data.tfds_dir", tmp_path)
    line = fails(main, DIGITS, *source, "--workdir", tmp_path / "run")
    assert line.startswith("error: TFDS knows no data set 'cifar1'")
    assert line.endswith("did you mean cifar10?")


@pytest.mark.parametrize("main_of", [evaluate.main, predict.main])
def test_a_folder_that_is_no_run_is_refused(fails: Fails, tmp_path: Path, main_of: Callable[..., None]):
    images = ("0.png",) if main_of is predict.main else ()
    line = fails(main_of, *images, "--workdir", tmp_path)
    assert line == f"error: {tmp_path} is not the folder of a run: it has no config.json"


@pytest.mark.parametrize("text", ["{", "[]", '{"config": {}}', "null"])
def test_a_damaged_config_json_is_named(fails: Fails, tmp_path: Path, text: str):
    (tmp_path / "config.json").write_text(text)
    assert str(tmp_path / "config.json") in fails(evaluate.main, "--workdir", tmp_path)


def test_a_run_without_checkpoint_says_so(fails: Fails, tmp_path: Path, trained: tuple[Path, Evaluation]):
    (tmp_path / "config.json").write_bytes((trained[0] / "config.json").read_bytes())
    assert fails(evaluate.main, "--workdir", tmp_path) == f"error: {tmp_path} has no checkpoint yet"


@pytest.mark.parametrize("which", ["1", "99", "newest", "-2"])
def test_a_checkpoint_that_is_not_kept_names_those_that_are(fails: Fails, trained: tuple[Path, Evaluation], which: str):
    line = fails(evaluate.main, "--workdir", trained[0], f"--checkpoint={which}")
    assert line.startswith(f"error: checkpoint='{which}' must be best, last or one of the kept steps [")
    assert line.endswith("4, 6]")


def test_predict_names_a_file_that_is_no_image(
    fails: Fails, tmp_path: Path, trained: tuple[Path, Evaluation], digit_files: list[Path]
):
    (tmp_path / "text.png").write_text("no image")
    line = fails(predict.main, digit_files[0], tmp_path / "text.png", "--workdir", trained[0])
    assert line.startswith(f"error: cannot read image {tmp_path / 'text.png'}: ")


def test_predict_names_a_file_that_is_missing(fails: Fails, tmp_path: Path, trained: tuple[Path, Evaluation]):
    line = fails(predict.main, tmp_path / "none.png", "--workdir", trained[0])
    assert line == f"error: cannot read image {tmp_path / 'none.png'}: No such file or directory"


def test_predict_wants_images(fails: Fails, trained: tuple[Path, Evaluation]):
    assert "image" in fails(predict.main, "--workdir", trained[0])


def test_evaluate_wants_a_work_directory(fails: Fails):
    assert "--workdir" in fails(evaluate.main)


def test_help_is_no_error(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop:
        main([DIGITS, "--help"])
    assert stop.value.code == 0
    said = capsys.readouterr().out
    assert "--optimizer.learning_rate" in said
    assert "options" not in re.findall(r"--model\.(\w+)", said)


def test_options_of_the_net_are_set_in_config_files_alone(config_file: Callable[[str], str], fails: Fails):
    path = config_file('config = Config(ModelConfig(options={"widths": (8, 16, 32)}), total_steps=1)')
    flags = ("--model.dtype", "bfloat16")
    default = Arguments(read_config_file(path), "runs/x")
    assert parse(Arguments, flags, default=default, prog="train").config.model.options == {"widths": (8, 16, 32)}
    assert fails(main, path, "--model.options", "3") == "error: there is no --model.options"


def test_options_that_the_net_refuses_are_said_in_one_line(
    config_file: Callable[[str], str], fails: Fails, tmp_path: Path
):
    path = config_file('config = Config(ModelConfig(options={"attention": {"kernel_size": 4}}), total_steps=1)')
    line = fails(main, path, "--workdir", tmp_path / "run")
    reason = "kernel_size=4 must be odd"
    assert line == f"error: cbam_resnet20_cifar does not accept this size of images or these model.options: {reason}"


@pytest.mark.parametrize(
    ("called", "main_of", "arguments", "said"),
    [
        ((loop.Setup, "create"), main, (DIGITS,), "interrupted; the same command resumes from the last checkpoint"),
        ((evaluate, "read_run"), evaluate.main, (), "interrupted"),
        ((predict, "read_run"), predict.main, ("0.png",), "interrupted"),
    ],
)
def test_an_interrupt_is_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    called: tuple[Any, str],
    main_of: Callable[..., None],
    arguments: tuple[str, ...],
    said: str,
):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(*called, interrupted)
    monkeypatch.setattr(os, "_exit", sys.exit)
    monkeypatch.setattr("sys.argv", ["program", *arguments, "--workdir", str(tmp_path)])
    with pytest.raises(SystemExit) as stop:
        program(main_of)
    assert stop.value.code == 130
    assert capsys.readouterr().err == f"error: {said}\n"


def test_an_interrupt_that_falls_into_a_destructor_is_not_lost(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    class Interrupted:
        def __del__(self) -> None:
            raise KeyboardInterrupt

    def main_of(_: Sequence[str]) -> None:
        Interrupted()
        threading.Event().wait(60)

    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    monkeypatch.setattr(os, "_exit", sys.exit)
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)  # processes of pytest-xdist ignore it
    with pytest.raises(SystemExit) as stop:
        program(main_of)
    signal.signal(signal.SIGINT, usual)
    assert (stop.value.code, capsys.readouterr().err) == (130, "error: interrupted\n")


def test_a_user_error_is_a_value_error_for_those_who_call_from_python(tmp_path: Path):
    with pytest.raises(ValueError, match=r"model\.num_classes=3"):
        train(small({"model.num_classes": 3}), str(tmp_path))
    assert issubclass(UserError, ValueError)
    assert list(tmp_path.iterdir()) == []


def test_config_json_reads_back_as_the_same_config(trained: tuple[Path, Evaluation]):
    stored = json.loads((trained[0] / "config.json").read_text())
    assert from_dict(Config, stored["config"]) == small()


_WITHOUT_TYRO = """
import importlib.util, runpy, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "tyro" else find(name, *rest)
sys.modules["tyro"] = None
"""


@pytest.mark.parametrize("name", ["train", "train.evaluate"])
def test_a_program_without_the_extra_ends_in_one_line(name: str):
    code = f"{_WITHOUT_TYRO}\nsys.argv = ['-m']\nrunpy._run_module_as_main({name!r})"  # what `python -m` does
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "error: tyro not installed: pip install -e '.[train]'\n")


@pytest.mark.parametrize("statement", ["from train import train", "import train.data.pipeline", "import train.config"])
def test_an_import_without_the_extra_raises(statement: str):
    code = f"{_WITHOUT_TYRO}\ntry:\n    {statement}\nexcept ImportError as error:\n    print(error)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "tyro not installed: pip install -e '.[train]'\n"), done.stderr
