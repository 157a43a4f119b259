"""Files of weights: what is read, what is refused, and that a failure writes nothing."""

from __future__ import annotations

import importlib
import json
import os
import pickle
import re
import struct
import sys
import types
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

import attnjax
from attnjax.convert import from_torch, load_variables, read_weights, save_weights, to_torch
from attnjax.convert.__main__ import main

safetensors = pytest.importorskip("safetensors.numpy")

NAME, SOURCE = "resnet20_cifar", "torchvision"
DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="module")
def variables() -> dict[str, Any]:
    return attnjax.init(attnjax.create_model(NAME), jax.random.key(0), (1, 32, 32, 3))


@pytest.fixture
def weights(tmp_path: Path, variables: dict[str, Any]) -> Path:
    path = tmp_path / "weights.safetensors"
    safetensors.save_file(to_torch(NAME, variables, SOURCE), path)
    return path


def assert_same(a: Any, b: Any) -> None:
    a, b = flatten_dict(a, sep="/"), flatten_dict(b, sep="/")
    assert sorted(a) == sorted(b)
    assert all(np.asarray(a[path]).tobytes() == np.asarray(b[path]).tobytes() for path in a)


@pytest.mark.parametrize("out", ["out.safetensors", "out"])
def test_program_writes_what_reads_back_bitwise(
    weights: Path, variables: dict[str, Any], out: str, capsys: pytest.CaptureFixture[str]
) -> None:
    target = weights.parent / out
    assert main([str(weights), "--model", NAME, "--out", str(target)]) == 0
    assert capsys.readouterr().out == f"wrote {target}: {NAME}, 107 arrays, 274,042 numbers\n"
    assert_same(variables, load_variables(target))


def test_program_says_what_it_left_out(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = weights.parent / "out.safetensors"
    assert main([str(weights), "--model", NAME, "--num-classes", "3", "--out", str(target)]) == 0
    assert (
        "note: the classifier of 10 classes in the file is not loaded: that of the net, of 3, is"
        in capsys.readouterr().err
    )
    assert load_variables(target)["params"]["fc"]["kernel"].shape == (64, 3)


def test_program_puts_plain_weights_into_a_net_with_attention(weights: Path) -> None:
    target = weights.parent / "out.safetensors"
    arguments = [str(weights), "--model", "cbam_resnet20_cifar", "--out", str(target), "--allow-missing", "attention"]
    assert main(arguments) == 0
    assert "attention" in load_variables(target)["params"]["stage1_block0"]


def test_program_says_that_the_net_computes_something_else(
    weights: Path, variables: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    target = weights.parent / "out.safetensors"
    safetensors.save_file({n.replace("fc.", "last_linear."): v for n, v in cadene_names(variables).items()}, weights)
    assert main([str(weights), "--model", NAME, "--out", str(target)]) == 0
    error = capsys.readouterr().err
    assert error.startswith("note: the net computes another function than source='cadene'")
    assert "BasicBlock has branch_activation=False, not True" in error


def cadene_names(variables: dict[str, Any]) -> dict[str, np.ndarray]:
    names = to_torch(NAME, variables, SOURCE)
    return {re.sub(r"^(conv1|bn1)\.", r"layer0.\1.", name): value for name, value in names.items()}


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def huge_header(path: Path) -> None:
    path.write_bytes(struct.pack("<Q", 2**60) + b"{}")


def huge_array(path: Path) -> None:
    header = {"conv1.weight": {"dtype": "F32", "shape": [2**40, 2**20], "data_offsets": [0, 4]}}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"\0\0\0\0")


def no_json(path: Path) -> None:
    path.write_bytes(struct.pack("<Q", 4) + b"oops")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def wrong_name(path: Path) -> None:
    entries = safetensors.load_file(path)
    entries["conv1.wieght"] = entries.pop("conv1.weight")
    safetensors.save_file(entries, path)


def wrong_shape(path: Path) -> None:
    entries = safetensors.load_file(path)
    safetensors.save_file(entries | {"conv1.weight": np.zeros((16, 3, 5, 5), np.float32)}, path)


FAILURES: dict[Callable[[Path], None], str] = {
    truncated: "is damaged or is no safetensors file",
    huge_header: "is damaged or is no safetensors file",
    huge_array: "is damaged or is no safetensors file",
    no_json: "is damaged or is no safetensors file",
    empty: "is damaged or is no safetensors file",
    wrong_name: "1 missing: conv1.weight (nearest: conv1.wieght)",
    wrong_shape: "conv1.weight is (16, 3, 5, 5), not (16, 3, 3, 3)",
}


@pytest.mark.parametrize("damage", FAILURES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("out", ["out.safetensors", "out"])
def test_a_bad_file_gives_one_error_and_writes_nothing(
    weights: Path, damage: Callable[[Path], None], out: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(weights)
    assert main([str(weights), "--model", NAME, "--out", str(weights.parent / out)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert FAILURES[damage] in error
    assert "Traceback" not in error
    assert os.listdir(weights.parent) == [weights.name]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "resnet20"], "unknown model 'resnet20': did you mean"),
        (["--model", "cbam_resnet20_cifar"], "do not fit the net"),
        (["--model", NAME, "--num-classes", "-1"], "num_classes=-1"),
    ],
)
def test_bad_arguments_give_one_error_and_write_nothing(
    weights: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(weights), *arguments, "--out", str(weights.parent / "out.safetensors")]) == 2
    assert message in capsys.readouterr().err
    assert os.listdir(weights.parent) == [weights.name]


def test_an_existing_output_is_refused(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = weights.parent / "out.safetensors"
    out.write_text("mine")
    assert main([str(weights), "--model", NAME, "--out", str(out)]) == 2
    assert capsys.readouterr().err == f"error: --out {out} already exists\n"
    assert out.read_text() == "mine"


def test_a_missing_file_a_missing_folder_and_an_unknown_kind_are_named(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.safetensors is not a file"):
        read_weights(tmp_path / "none.safetensors")
    (tmp_path / "weights.h5").touch()
    with pytest.raises(ValueError, match=r"weights\.h5 must end in \.safetensors"):
        read_weights(tmp_path / "weights.h5")
    with pytest.raises(ValueError, match="does not exist"):
        save_weights(tmp_path / "none" / "out.safetensors", {})


def test_an_orbax_folder_is_never_overwritten(tmp_path: Path, variables: dict[str, Any]) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match="already exists"):
        save_weights(tmp_path / "out", variables)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.safetensors"
    save_weights(path, {"params": {"a": np.zeros(2, np.float32)}})
    before = path.read_bytes()

    def fail(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        save_weights(path, {"params": {"a": np.ones(2, np.float32)}})
    assert os.listdir(tmp_path) == [path.name]
    assert path.read_bytes() == before


def test_a_state_dict_is_not_taken_for_variables(weights: Path) -> None:
    with pytest.raises(ValueError, match=r"does not hold variables .* use from_torch"):
        load_variables(weights)


def test_bfloat16_is_read_exactly(tmp_path: Path) -> None:
    bits = np.array([0x3F80, 0xC049], np.uint16)
    header = {"x": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}
    text = json.dumps(header).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + bits.tobytes())
    read = read_weights(path)["x"]
    assert read.dtype == np.float32
    assert read.tolist() == [1.0, -3.140625]


def without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.import_module

    def load(name: str, package: str | None = None) -> Any:
        if name == "torch":
            raise ImportError(name)
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", load)


@pytest.mark.parametrize("name", ["malicious.pth", "plain.pth"])
def test_without_torch_a_pickle_is_refused_unread(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without_torch(monkeypatch)
    monkeypatch.chdir(tmp_path)
    assert main([str(DATA / name), "--model", NAME, "--out", "out.safetensors"]) == 2
    assert "can only be read with PyTorch: pip install torch, or save the state dict as" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


def test_a_torch_whose_loader_could_run_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes((DATA / "plain.pth").read_bytes())
    for version, safe in {"1.13.1": False, "2.5.1+cu121": False, "2.6.0a0+git": True, "2.13.0+cpu": True}.items():
        asked: list[Path] = []
        torch = types.ModuleType("torch")
        torch.__dict__.update(__version__=version, Tensor=np.ndarray, load=lambda path, **_: asked.append(path))  # noqa: B023
        monkeypatch.setitem(sys.modules, "torch", torch)
        message = (
            "holds no state dict" if safe else rf"weights\.pth needs torch 2\.6 or newer, found {re.escape(version)}: "
        )
        with pytest.raises(ValueError, match=message) as error:
            read_weights(path)
        assert bool(asked) is safe
        assert "\n" not in str(error.value)


def test_a_temporary_file_that_is_gone_hides_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(temporary: str, _: Any) -> None:
        os.unlink(temporary)
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        save_weights(tmp_path / "out.safetensors", {"params": {"a": np.zeros(2, np.float32)}})


def test_a_file_has_the_usual_mode(tmp_path: Path) -> None:
    save_weights(tmp_path / "out.safetensors", {"params": {"a": np.zeros(2, np.float32)}})
    (tmp_path / "usual").touch()
    assert (tmp_path / "out.safetensors").stat().st_mode == (tmp_path / "usual").stat().st_mode


class _Malicious:
    def __reduce__(self) -> Any:
        return os.mkdir, ("pwned",)


def legacy_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps(_Malicious()))


def zipped_pickle(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(_Malicious()))
        archive.writestr("archive/version", "3\n")


def stored_pickle(path: Path) -> None:
    path.write_bytes((DATA / "malicious.pth").read_bytes())


def truncated_zip(path: Path) -> None:
    path.write_bytes((DATA / "plain.pth").read_bytes()[:300])


def nothing(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize(
    "make", [legacy_pickle, zipped_pickle, stored_pickle, truncated_zip, nothing], ids=lambda make: make.__name__
)
def test_with_torch_a_bad_pickle_is_refused_and_nothing_runs(
    make: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "weights.pth")
    assert main(["weights.pth", "--model", NAME, "--out", "out.safetensors"]) == 2
    assert "weights.pth is damaged or holds more than weights" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["weights.pth"]


@pytest.mark.parametrize("wrapped", [False, True])
def test_with_torch_a_checkpoint_is_read(tmp_path: Path, variables: dict[str, Any], wrapped: bool) -> None:
    torch = pytest.importorskip("torch")
    state_dict = {
        f"module.{name}": torch.from_numpy(value.copy()) for name, value in to_torch(NAME, variables, SOURCE).items()
    }
    saved = {"epoch": 3, "arch": "resnet", "state_dict": state_dict, "best_prec1": 0.5} if wrapped else state_dict
    torch.save(saved, tmp_path / "weights.pth")
    assert_same(variables, from_torch(NAME, read_weights(tmp_path / "weights.pth")))
    assert_same(variables, from_torch(NAME, state_dict))
    assert_same(variables, from_torch(NAME, {name: value.double() for name, value in state_dict.items()}))


def test_with_torch_a_file_without_weights_is_refused(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="holds no state dict but a list"):
        read_weights(tmp_path / "list.pth")
    torch.save({"epoch": 3}, tmp_path / "epoch.pth")
    with pytest.raises(ValueError, match="holds no state dict: epoch are no tensors"):
        read_weights(tmp_path / "epoch.pth")


def test_a_missing_package_is_named_with_its_extra(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str, package: str | None = None) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", load)
    for call in (partial(read_weights, weights), partial(save_weights, weights, {})):
        with pytest.raises(ImportError, match=r"pip install 'attnjax\[convert\]'"):
            call()
