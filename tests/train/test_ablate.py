"""Tables of variants and seeds: what is trained, what the table says, and how an interrupted one goes on."""

from __future__ import annotations

import csv
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import attnjax
from tests.train.support import DIGITS, run
from train import ablate, load_run
from train.config import Config, ModelConfig, OptimizerConfig
from train.config.ablation import Ablation, folder_name, with_settings
from train.config.errors import UserError
from train.config.flags import read_config_file
from train.runs.record import read_run
from train.runs.report import Report

Fails = Callable[..., str]
FILE = """
from configs.digits.digits_cbam import config
from train.config.ablation import Ablation
from train.config import *

small = {"widths": (8,), "stage_sizes": (1,), "stem_width": 8}
base = Config(ModelConfig("resnet20_cifar", options=small), config.data, total_steps=4, log_every_steps=2)
ablation = Ablation(
    base,
    {"plain": {}, "wide | 12": {"model.options": small | {"widths": (12,)}, "optimizer.learning_rate": 0.05}},
    published={"plain": "5.1"},
    source="a paper",
)
"""
FLAGS = ("--seeds", "2", "--checkpoint_every_steps", "2", "--data.batch_size", "32")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("file") / "widths.py"
    path.write_text(FILE)
    return path


@pytest.fixture(scope="module")
def study(file: Path, tmp_path_factory: pytest.TempPathFactory, _compile_once: None) -> Path:
    """The folder of a finished table. Do not write there."""
    workdir = tmp_path_factory.mktemp("study")
    ablate.main([str(file), "--workdir", str(workdir), *FLAGS])
    return workdir


def table(workdir: Path) -> list[dict[str, str]]:
    """The lines of table.csv, without what the clock says."""
    with open(workdir / "table.csv") as lines:
        return [{k: v for k, v in row.items() if not k.startswith("step_")} for row in csv.DictReader(lines)]


def test_every_seed_of_every_variant_is_an_ordinary_run(study: Path):
    assert {path.name for path in study.iterdir()} == {"plain", "wide_12", "lock", "plot.png", "table.csv", "table.md"}
    for folder, width, rate in (("plain", 8, 0.1), ("wide_12", 12, 0.05)):
        for seed in (0, 1):
            config = read_run(str(study / folder / f"seed_{seed}")).config
            assert (config.seed, config.model.options["widths"]) == (seed, (width,))
            assert (config.optimizer.learning_rate, config.data.batch_size) == (rate, 32)
            assert load_run(str(study / folder / f"seed_{seed}")).class_names == tuple("0123456789")


def test_the_table_has_means_and_deviations_over_the_seeds(study: Path):
    plain, wide = table(study)
    summaries = [json.loads((study / "plain" / f"seed_{n}" / "summary.json").read_text()) for n in (0, 1)]
    errors = [100 * (1 - summary["test_accuracy"]) for summary in summaries]
    assert (plain["variant"], plain["seeds"], plain["published"], plain["source"]) == ("plain", "2", "5.1", "a paper")
    assert float(plain["error_mean"]) == pytest.approx(statistics.mean(errors))
    assert float(plain["error_sd"]) == pytest.approx(statistics.stdev(errors))
    assert float(plain["loss_mean"]) == pytest.approx(statistics.mean(s["test_loss"] for s in summaries))
    small: dict[str, Any] = {"stage_sizes": (1,), "stem_width": 8, "num_classes": 10}
    for row, width in ((plain, 8), (wide, 12)):
        net = attnjax.create_model("resnet20_cifar", widths=(width,), **small)
        assert int(row["parameters"]) == attnjax.count_parameters(net, (1, 8, 8, 1))
        assert int(row["macs"]) == attnjax.count_macs(net, (1, 8, 8, 1))
    assert wide["published"] == ""


def test_the_table_says_what_it_is_of(study: Path):
    about, versions, empty, head, rule, plain, wide = (study / "table.md").read_text().splitlines()
    assert about == "widths: digits, 1437 training images of 8x8x1; 4 steps of 32; seeds 0 to 1."
    assert "jax " in versions
    assert (empty, rule.count("---")) == ("", head.count("|") - 1)
    assert head.endswith("| test top-1 error, % | test loss | last training loss | step, ms | published (a paper) |")
    assert plain.startswith("| plain | ")
    assert plain.endswith(" | 5.1 |")
    assert wide.startswith("| wide / 12 | ")
    assert {line.count("|") for line in (head, rule, plain, wide)} == {10}
    with Image.open(study / "plot.png") as picture:
        assert min(picture.size) > 200


def test_a_table_that_was_killed_in_mid_run_goes_on_and_ends_as_the_unbroken_one(
    study: Path, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def training(self: Report, step: int, figures: dict[str, float]) -> None:
        if (step, self._label) == (4, "[3/4] wide | 12, seed 0"):
            raise KeyboardInterrupt
        original(self, step, figures)

    original, flags = Report.training, [str(file), "--workdir", str(tmp_path), *FLAGS]
    with monkeypatch.context() as patched:
        patched.setattr(Report, "training", training)
        with pytest.raises(KeyboardInterrupt):
            ablate.main(flags)
    assert table(tmp_path) == table(study)[:1]
    capsys.readouterr()
    ablate.main(flags)
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("2 runs to train, 2 finished; seeds train sequentially: on a CPU")
    assert said[1] == f"[1/2] wide | 12, seed 0: {tmp_path}/wide_12/seed_0 resumes at step 2 of 4"
    assert table(tmp_path) == table(study)
    ablate.main(flags)
    assert capsys.readouterr().out.startswith("0 runs to train, 4 finished")
    assert table(tmp_path) == table(study)


def test_some_variants_alone_with_one_seed_together(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    ablate.main([str(file), "--workdir", str(tmp_path), "--only", "plain", "--together=yes", *FLAGS])
    assert "seeds train together: --together yes" in capsys.readouterr().out
    assert [row["variant"] for row in table(tmp_path)] == ["plain"]
    assert table(tmp_path)[0]["seeds"] == "2"
    ablate.main([str(file), "--workdir", str(tmp_path), "--only", "plain", *FLAGS, "--seeds", "1"])
    (row,) = table(tmp_path)
    assert (row["seeds"], row["error_sd"]) == ("1", "")
    assert "+-" not in (tmp_path / "table.md").read_text()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--only", "plan"), "--only: there is no variant 'plan': did you mean plain?"),
        (("--seeds", "0"), "--seeds=0 must be at least 1"),
        (("--optimizer.learing_rate", "1"), "there is no --optimizer.learing_rate: did you mean"),
        (("--total_steps", "8"), "is a run of 4 steps, not of 8: choose another --workdir"),
        (("--optimizer.learning_rate", "0.2"), "--optimizer.learning_rate is set by variant 'wide | 12': change it in"),
        (("--optimizer.momentum", "0.5"), "belongs to another run (optimizer.momentum is 0.9 there, 0.5 here)"),
    ],
)
def test_what_cannot_be_is_one_line(study: Path, file: Path, fails: Fails, flags: tuple[str, ...], message: str):
    assert message in fails(ablate.main, file, "--workdir", study, *FLAGS, *flags)


def test_a_variant_that_does_not_fit_its_images_is_named_before_the_first_trains(tmp_path: Path, fails: Fails):
    path = tmp_path / "unfit.py"
    path.write_text(FILE.replace("resnet20_cifar", "cbam_resnet20_cifar").replace("(8,)", "(16,)"))
    line = fails(ablate.main, path, "--workdir", tmp_path / "study", *FLAGS)
    assert line.startswith("error: variant 'wide | 12': cbam_resnet20_cifar does not accept this size")
    assert "reduction=16 leaves no hidden feature for 12 channels" in line
    assert [each.name for each in (tmp_path / "study").iterdir()] == ["lock"]


def test_a_variant_of_which_several_seeds_cannot_train_is_named_before_the_first_trains(tmp_path: Path, fails: Fails):
    path = tmp_path / "unfit.py"
    path.write_text(FILE.replace('"optimizer.learning_rate"', '"parallel.engine": "pmap", "optimizer.learning_rate"'))
    line = fails(ablate.main, path, "--workdir", tmp_path / "study", *FLAGS)
    assert line.startswith("error: variant 'wide | 12': several seeds require parallel.engine='jit'")
    assert [each.name for each in (tmp_path / "study").iterdir()] == ["lock"]


def test_a_file_without_an_ablation_is_named(fails: Fails, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop:
        ablate.main(["--help"])
    assert stop.value.code == 0
    assert "--seeds" in capsys.readouterr().out
    assert fails(ablate.main).startswith("error: the first argument must be an ablation")
    assert fails(ablate.main, DIGITS).endswith("must define ablation = Ablation(...), see train/config/ablation.py")


def test_it_runs_as_a_module(file: Path):
    done = run("train.ablate", file, "--seeds", "0")
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "error: --seeds=0 must be at least 1\n")


def base() -> Config:
    return read_config_file(DIGITS)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"variants": {}}, "an ablation needs variants"),
        ({"variants": {"a": {"model.nam": "x"}}}, "variant 'a': a variant cannot set 'model.nam': did you mean"),
        ({"variants": {"a": {"seed": 3}}}, "variant 'a': a variant cannot set 'seed'"),
        ({"variants": {"a": {"model.name": "resnet21_cifar"}}}, "variant 'a': model.name: unknown model"),
        ({"variants": {"a": {"model.options": {"width": 3}}}}, "variant 'a': model.options: unknown argument 'width'"),
        ({"variants": {"a": {"data.batch_size": 0}}}, "variant 'a': data.batch_size=0 must be"),
        ({"variants": {"k = 3": {}, "k: 3": {}}}, "the folder of variant 'k: 3' is 'k_3', already used by 'k = 3'"),
        (
            {"variants": {"Table: md": {}, "table.MD": {}}},
            "the folder of variant 'table.MD' is 'table.MD', already used by the table's table.md",
        ),
        ({"variants": {"..": {}}}, "the folder of variant '..' is '': choose another label"),
        ({"variants": {"plain": {}}, "published": {"plian": "1"}}, "there is no variant 'plian': did you mean plain?"),
        ({"variants": {"a": 3}}, "variants={'a': 3} must be of type"),
    ],
)
def test_an_ablation_says_what_is_wrong_with_it(settings: dict[str, Any], message: str):
    with pytest.raises(UserError) as error:
        Ablation(base(), **settings)
    assert message in str(error.value)


def test_the_settings_of_a_variant_are_replaced_all_at_once():
    changes = {"model.name": "cbam_resnet20_cifar", "model.options": {"attention": {"pools": ("avg",)}}}
    changed = with_settings(base(), {**changes, "optimizer.kind": "adamw"})
    assert changed.model == ModelConfig("cbam_resnet20_cifar", options=changes["model.options"])
    assert (changed.optimizer.kind, changed.data) == ("adamw", base().data)
    assert with_settings(base(), {}) == base()
    assert OptimizerConfig() != base().optimizer


def test_folders_are_named_plainly():
    assert folder_name("channel, then spatial: k = 3x3 (SE)") == "channel_then_spatial_k_3x3_SE"
    assert folder_name("../x") == "x"
