"""Compiling for TPUs that are not there: the report, the largest batch, the table, errors."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import importlib.util
import json
import multiprocessing
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import pytest

from tests.kinds import only_in_full
from tests.train import compilers
from tests.train.support import ROOT, replace
from train import aot, aot_table
from train.aot import describe, record
from train.config import Config, DataConfig, ModelConfig, ParallelConfig
from train.config.errors import UserError
from train.config.flags import read_config_file
from train.pods import compile as tpu
from train.pods.batch import largest_batch
from train.pods.chips import CHIPS, Chip, chip_of
from train.pods.compile import COMPILER, GIB, Compiled, NotEnoughMemoryError, Pod, explain
from train.pods.hlo import Traffic
from train.runs.provenance import installed
from train.runs.setup import abstract_state
from train.tasks.classification import CLASSIFICATION
from train.tasks.recipe import Run, norm_options

_CHIP = Chip(memory=16.0, flops=1e12, memory_bandwidth=1e11, network_bandwidth=1e10, dimensions=2)
_STEP = Compiled(
    images=4,
    memory={"arguments": 3 * GIB, "outputs": 2 * GIB, "reused": GIB, "temporaries": 8 * GIB, "program": GIB},
    flops=2e9,
    accessed=8e8,
    moved=4 * 10**8,
    traffic={"all-reduce": Traffic(3, 10_000_000, 20e6)},
    unknown_loops=0,
    seconds=7.0,
)
_CONFIG = Config(
    model=ModelConfig("resnet20_cifar", 10, "bfloat16", options={"stage_sizes": (1, 1), "widths": (16, 32)}),
    data=DataConfig(source="folder:nowhere", batch_size=32, image_size=8, channels=3),
    parallel=ParallelConfig(batch_norm="device"),
    total_epochs=2,
)


@pytest.fixture
def pod() -> Pod:
    """Eight devices that are there, in the place of chips."""
    return Pod("cpu:8", _CHIP, jax.devices())


@pytest.fixture
def config_file(tmp_path: Path) -> str:
    """A file with a small net."""
    path = tmp_path / "small.py"
    path.write_text(
        "from train.config import *\n"
        "options = {'stage_sizes': (1, 1), 'widths': (16, 32)}\n"
        "config = Config(ModelConfig('resnet20_cifar', 10, 'bfloat16', options=options),"
        " DataConfig('folder:nowhere', batch_size=32, image_size=8),"
        " parallel=ParallelConfig(batch_norm='device'), total_epochs=2)\n"
    )
    return str(path)


def test_memory_and_times_of_a_step() -> None:
    assert _STEP.needed == 13 * GIB - GIB + GIB - GIB + GIB
    assert _STEP.times(_CHIP) == {"compute": 0.002, "memory": 0.004, "collectives": 0.002}


def test_the_report_names_what_binds(pod: Pod) -> None:
    text = "\n".join(describe(pod, _CONFIG, _STEP))
    assert "batch        32 images, 4 a chip" in text
    assert "memory       13.00 of 16.00 GiB a chip, fits: arguments 3.00, outputs 2.00 (1.00 reusing arguments)" in text
    assert "all-reduce: 3 a step, of 10.0 MB in all" in text
    assert "0.5 G an image" in text
    assert "at most 8000 images/s, bound by memory: compute 2 ms, memory 4 ms, collectives 2 ms" in text
    crowded = dataclasses.replace(_STEP, memory={**_STEP.memory, "temporaries": 12 * GIB})
    assert "loops" not in text.replace("loops once", "")
    unknown = dataclasses.replace(_STEP, unknown_loops=2)
    assert "loops        of unknown length: 2, counted once each" in describe(pod, _CONFIG, unknown)
    assert "17.00 of 16.00 GiB a chip, does not fit" in "\n".join(describe(pod, _CONFIG, crowded))


@pytest.mark.parametrize(
    ("needs", "known", "asked", "expected"),
    [
        (lambda n: 100 + 10 * n, {64: 740}, [1024, 760, 632, 568, 536, 520, 512, 504, 496, 488], 488),
        (lambda n: 100 + 10 * n + n * n // 500, {64: 748}, [1024, 720, 576, 512, 480, 464, 456, 448], 448),
        (lambda n: 100 + 10 * n, {1000: 10_100}, [752, 624, 560, 528, 512, 504, 496, 488], 488),
        (lambda n: 100 + 1000 * n, {1: 1100}, [40, 24, 16, 8, 7, 6, 5, 4], 4),
        (lambda n: 100 + 10_000 * n, {1: 10_100}, [], 0),
        (lambda n: n, {64: 64}, [1024], 1024),
        (lambda n: 10_000, {64: 10_000}, [56, 48, 40, 32, 24, 16, 8, 7, 6, 5, 4, 3, 2, 1], 0),
        (lambda n: min(10 * n, 4000) + n, {64: 704}, [1024, 1000], 1000),
        (lambda n: 5000 + (n > 900), {64: 5000}, [520, 1024, 1000, 976, 952, 928, 904, 880], 880),
        (lambda n: n + 5000 * (n > 600), {64: 64}, [1024, 944, 872, 808, 752, 704, 664, 632, 600, 616], 600),
        (lambda n: 32 * n, {163: 5216}, [160, 152], 152),
    ],
    ids=[
        *("line", "bent", "too large at first", "few", "none", "capped", "not even one", "flat", "full", "step"),
        "not whole at first",
    ],
)
def test_the_largest_batch_is_approached_from_above(
    needs: Callable[[int], int], known: dict[int, int], asked: list[int], expected: int
) -> None:
    calls = []

    def needed(images: int) -> int:
        calls.append(images)
        return needs(images)

    assert largest_batch(needed, known, limit=5000, most=1024, units=(8, 1)) == expected
    assert calls == asked


def test_batches_keep_the_groups_of_batch_norm_on_a_chip(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], config_file: str
) -> None:
    asked = _without_compiling(monkeypatch, limit=15)
    flags = ["--batch_per_chip", "3", "--find_batch", "--parallel.batch_norm"]
    aot.main([config_file, *flags, "12"])
    assert asked.pop("planned") == [3, 120, 72, 48, 24, 12]
    aot.main([config_file, *flags, "6"])
    assert asked["planned"] == [3, 120, 72, 48, 24, 18, 12]


@pytest.mark.parametrize(
    ("flags", "tried"),
    [
        (["32"], [96, 64, 32, 24, 16, 8]),
        (["20"], [80, 40, 20, 15]),
        (["12", "--parallel.accumulate", "2"], [72, 48, 24, 18, 12]),
    ],
)
def test_batches_hold_whole_groups_where_one_chip_does_not(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    config_file: str,
    flags: list[str],
    tried: list[int],
) -> None:
    asked = _without_compiling(monkeypatch, limit=15, chips=4)
    aot.main([config_file, "--batch_per_chip", "120", "--find_batch", "--parallel.batch_norm", *flags])
    assert asked == {"compiled": [120], "planned": tried}


def test_want_of_memory_is_told_in_a_line() -> None:
    said = (
        "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory required for HLO "
        "temporaries (17.50G) exceeds available HBM (15.75G). HLO module: jit_train_step.\nSee https://openxla.org"
    )
    error = explain(RuntimeError(said), 512)
    assert isinstance(error, NotEnoughMemoryError)
    assert error.needed == 17.5 * GIB
    assert str(error) == "512 images a chip do not fit: they need 17.50 of 15.75 GiB"
    larger = explain(RuntimeError(said.replace("17.50G", "1.25T")), 512)
    assert isinstance(larger, NotEnoughMemoryError)
    assert larger.needed == 1280 * GIB
    other = RuntimeError("INTERNAL: (1.00G) and (2.00G)")
    assert explain(other, 512) is other


@pytest.mark.parametrize(
    ("compiler", "needed"), [("reports", 3.0), only_in_full("ends", 5.0), only_in_full("refuses", 17.5)]
)
def test_memory_is_planned_in_a_process_that_ends_then(
    pod: Pod, monkeypatch: pytest.MonkeyPatch, compiler: str, needed: float
) -> None:
    monkeypatch.setattr(tpu, "_plan", getattr(compilers, compiler))
    before = set(multiprocessing.active_children())
    assert pod.planned_bytes(_CONFIG) == needed * GIB
    assert set(multiprocessing.active_children()) <= before


@pytest.mark.parametrize(
    ("compiler", "message"),
    [
        ("fails", "^4 images a chip: INTERNAL: no such instruction$"),
        only_in_full("dies", "^4 images a chip: the compiler ended with code 7$"),
    ],
)
def test_a_compiler_that_fails_is_told(pod: Pod, monkeypatch: pytest.MonkeyPatch, compiler: str, message: str) -> None:
    monkeypatch.setattr(tpu, "_plan", getattr(compilers, compiler))
    with pytest.raises(UserError, match=message):
        pod.planned_bytes(_CONFIG)


@pytest.fixture
def _handler_of_interrupts() -> Iterator[None]:
    handler = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, handler)


@pytest.mark.usefixtures("_handler_of_interrupts")
def test_what_is_planned_of_a_step_is_all_but_its_program(
    pod: Pod, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(Pod, "of", lambda topology: pod)
    receiver, sender = multiprocessing.Pipe(duplex=False)
    with receiver, sender:
        tpu._plan("cpu:8", _CONFIG, str(tmp_path), sender)
        step = pod.compile(_CONFIG)
        assert receiver.recv() == step.needed - step.memory["program"]
        assert any(tmp_path.glob("*train_step*"))
        tpu._plan("cpu:8", replace(_CONFIG, {"data.image_size": None}), str(tmp_path), sender)
        assert receiver.recv() == "set data.image_size: the data set is not opened here"


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        ("Memory Space: default (color=0)\nTotal bytes: 1264941056 (1.18GiB)\n  cumulative_size;", 1264941056),
        ("Memory Space: default (color=0)\nTotal bytes: 12649", None),
        ("Memory Space: alternate (color=1)\nTotal bytes: 5 (5B)\n", None),
        ("", None),
    ],
)
def test_a_report_counts_once_its_total_is_whole(tmp_path: Path, report: str, expected: int | None) -> None:
    assert tpu._assigned(str(tmp_path)) is None
    (tmp_path / "module_0000.jit_train_step.after_optimizations-memory-usage-report.txt").write_text(report)
    assert tpu._assigned(str(tmp_path)) == expected


def test_the_real_step_is_compiled_for_the_devices_of_a_pod(pod: Pod) -> None:
    step = pod.compile(_CONFIG)
    run = Run(_CONFIG, tuple("0123456789"), (8, 8, 3), 32)
    state = abstract_state(CLASSIFICATION, run)
    images, labels, metrics = 4 * 8 * 8 * 3, 4 * 4, 4 * 4
    assert step.images == 4
    assert step.memory["arguments"] == _bytes(state) + images + labels + metrics
    assert step.memory["reused"] == _bytes(state) + metrics
    reduced = sum(leaf.size for leaf in jax.tree.leaves(state.variables))
    assert step.traffic["all-reduce"].count <= 3
    assert step.traffic["all-reduce"].bytes == 4 * reduced + 3 * 4  # loss, its sum, right answers
    assert step.moved == pytest.approx(step.accessed, rel=1e-3)  # on a CPU all memory counts


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def test_the_key_changes_with_what_is_compiled(pod: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    key = pod.key(_CONFIG)
    assert pod.key(replace(_CONFIG, {"log_every_steps": 7, "data.source": "folder:elsewhere"})) == key
    others = [
        pod.key(replace(_CONFIG, {"optimizer.weight_decay": 0.5})),
        pod.key(pod.with_images(_CONFIG, 8)),
        dataclasses.replace(pod, topology="another").key(_CONFIG),
    ]
    monkeypatch.setattr(tpu, "installed", lambda packages: {"jax": "0"})
    assert len({key, *others, pod.key(_CONFIG)}) == 5


def test_a_record_holds_all_figures(pod: Pod) -> None:
    stored = json.loads(json.dumps(record(pod, pod.with_images(_CONFIG, 2), "key", _STEP, 8)))
    assert (stored["chips"], stored["processes"], stored["config"]["data.batch_size"]) == (8, 1, 16)
    assert stored["step"]["images"] == 4
    assert stored["step"]["needed"] == _STEP.needed
    assert stored["step"]["traffic"] == {"all-reduce": {"count": 3, "bytes": 10_000_000, "sent": 20e6}}
    assert stored["step"]["images_per_second"] == 32 / 0.004
    assert stored["most_images"] == 8
    assert record(pod, _CONFIG, "key", None, 2)["step"] is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.image_size": None}, "set data.image_size: the data set is not opened here"),
        ({"model.num_classes": None}, "set model.num_classes: "),
        ({"parallel.engine": "pmap"}, "parallel.engine='pmap' needs real devices: use 'jit'"),
        ({"data.batch_size": 20}, "data.batch_size=20 cannot be divided evenly among 8 devices"),
    ],
)
def test_a_config_that_cannot_be_compiled_says_why(pod: Pod, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        pod.compile(replace(_CONFIG, changes))


@pytest.mark.parametrize("topology", ["v5e:4x4", "v5e:16x16", "v6e:16x16", "v4:4x4x8", "v5p:4x4x8"])
def test_topologies_name_their_chip(topology: str) -> None:
    assert chip_of(topology) is CHIPS[topology.partition(":")[0]]


@pytest.mark.parametrize("topology", ["v5e", "v5e:16", "v5e:4x4x4", "v4:4x4", "v5e:0x4", "v9:4x4", "4x4", "v5e:4x4 "])
def test_other_topologies_are_refused(topology: str, fails: Callable[..., str], config_file: str) -> None:
    said = fails(aot.main, config_file, "--topology", topology)
    assert f"topology={topology!r} must be v5e|v6e:AxB or v4|v5p:AxBxC" in said
    assert "v5e:16x16" in said


def test_without_libtpu_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, fails: Callable[..., str], config_file: str
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    needed = "error: libtpu is not installed: pip install -e '.[aot]'"
    assert fails(aot.main, config_file) == needed
    assert fails(aot_table.main, config_file) == needed


def _without_compiling(monkeypatch: pytest.MonkeyPatch, limit: int, chips: int = 8) -> dict[str, list[int]]:
    """Every image of a step takes 1 GiB beside 1 GiB for the program; returns the batches by what is asked of them."""
    asked = collections.defaultdict(list)

    def images_of(self: Pod, config: Config, what: str) -> int:
        norm_options(config, len(self.devices))
        asked[what].append(config.data.batch_size // len(self.devices))
        return asked[what][-1]

    def compile_step(self: Pod, config: Config) -> Compiled:
        images = images_of(self, config, "compiled")
        if images > limit:
            raise NotEnoughMemoryError(f"{images} images a chip do not fit", images * GIB)
        return _step_of(images)

    monkeypatch.setattr(Pod, "of", lambda topology: Pod(topology, _CHIP, jax.devices()[:chips]))
    monkeypatch.setattr(Pod, "compile", compile_step)
    monkeypatch.setattr(Pod, "planned_bytes", lambda self, config: images_of(self, config, "planned") * GIB)
    return asked


def test_the_program_finds_the_largest_batch(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], config_file: str, tmp_path: Path
) -> None:
    asked = _without_compiling(monkeypatch, limit=15)
    out = tmp_path / "out.json"
    aot.main([config_file, "--batch_per_chip", "2", "--find_batch", "--json", str(out), "--data.image_size", "16"])
    assert asked == {"compiled": [2], "planned": [2, 120, 72, 48, 32, 24, 16, 8]}
    said = capsys.readouterr().out.splitlines()
    assert said[-2:] == ["planned      8 images a chip take 8.00 GiB", "largest      8 images a chip"]
    stored = json.loads(out.read_text())
    assert (stored["step"]["images"], stored["most_images"]) == (2, 8)
    assert stored["config"]["data.image_size"] == 16


def test_what_fits_is_found_however_little_is_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], config_file: str
) -> None:
    _without_compiling(monkeypatch, limit=15)
    for images, found in ((15, 15), (16, 8)):  # with the program 16 and 17 of 16 GiB
        monkeypatch.setattr(Pod, "compile", lambda self, config, images=images: _step_of(images))
        aot.main([config_file, "--batch_per_chip", str(images), "--find_batch"])
        assert capsys.readouterr().out.splitlines()[-1] == f"largest      {found} images a chip"


def _step_of(images: int) -> Compiled:
    memory = {"arguments": 0, "outputs": 0, "reused": 0, "temporaries": images * GIB, "program": GIB}
    return dataclasses.replace(_STEP, images=images, memory=memory)


def test_what_a_file_has_is_not_computed_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], config_file: str, tmp_path: Path
) -> None:
    asked = _without_compiling(monkeypatch, limit=15)
    command = [config_file, "--batch_per_chip", "2", "--json", str(tmp_path / "out.json")]
    aot.main(command)
    said = capsys.readouterr().out
    aot.main(command)
    assert capsys.readouterr().out == said
    assert asked == {"compiled": [2]}
    for _ in range(2):
        aot.main([*command, "--find_batch"])
        assert capsys.readouterr().out.splitlines()[-1] == "largest      8 images a chip"
        assert asked == {"compiled": [2], "planned": [2, 120, 72, 48, 32, 24, 16, 8]}
    aot.main([*command, "--optimizer.weight_decay", "0.5"])
    assert asked["compiled"] == [2, 2]


def test_a_batch_that_does_not_fit_is_an_error_or_where_the_search_begins(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    config_file: str,
    fails: Callable[..., str],
    tmp_path: Path,
) -> None:
    asked = _without_compiling(monkeypatch, limit=15)
    command = [config_file, "--batch_per_chip", "64", "--json", str(tmp_path / "out.json")]
    for _ in range(2):
        aot.main([*command, "--find_batch"])
        assert capsys.readouterr().out.splitlines()[-1] == "largest      8 images a chip"
        assert asked == {"compiled": [64], "planned": [40, 32, 24, 16, 8]}
        assert fails(aot.main, *command) == "error: 64 images a chip do not fit"
        asked["compiled"].pop()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, pod: Pod) -> list[tuple[str, int]]:
    """Each compilation, which takes no time and fits, by the config's name and images a chip, and each plan of memory.

    A config called "broken" fails. 64 images take 1 GiB of a chip's 16, beside 1 GiB for the program; 65 are planned by
    a compiler that dies.
    """
    monkeypatch.setattr(Pod, "of", lambda topology: dataclasses.replace(pod, topology=topology))
    monkeypatch.setattr(Pod, "key", lambda self, config: f"{config.total_steps}x{config.data.batch_size}" + 64 * "0")
    calls = []

    def run(command: list[str], check: bool) -> subprocess.CompletedProcess[str]:
        path, *options = command[3:]
        name, images = Path(path).stem, int(options[options.index("--batch_per_chip") + 1])
        calls.append((name, images))
        if name == "broken":
            raise subprocess.CalledProcessError(2, command)
        memory = {"arguments": 0, "outputs": 0, "reused": 0, "temporaries": images * GIB // 64, "program": GIB}
        step = dataclasses.replace(_STEP, images=images, memory=memory, flops=images * 7.25e9)
        key = pod.key(pod.with_images(read_config_file(path), images))
        out = options[options.index("--json") + 1]
        Path(out).write_text(
            json.dumps(record(pod, _CONFIG, key, step, None) | {"versions": dict.fromkeys(COMPILER, "1.0")})
        )
        return subprocess.CompletedProcess(command, 0)

    def planned(self: Pod, config: Config) -> int:
        images = config.data.batch_size // len(self.devices)
        calls.append(("planned", images))
        if images == 65:
            raise UserError("the compiler ended with code -9 at 65 images a chip")
        return images * GIB // 64

    ours = SimpleNamespace(run=run, CalledProcessError=subprocess.CalledProcessError)
    monkeypatch.setattr(aot_table, "subprocess", ours)  # the module's own name: the standard library runs some, too
    monkeypatch.setattr(Pod, "planned_bytes", planned)
    return calls


def _write_config(path: Path, steps: int = 1) -> str:
    parallel = "ParallelConfig(batch_norm='device')"
    path.write_text(f"from train.config import *\nconfig = Config(total_steps={steps}, parallel={parallel})\n")
    return str(path)


def test_the_table_is_what_is_done(
    asked: list[tuple[str, int]], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    a, c, broken = (_write_config(tmp_path / f"{name}.py") for name in ("a", "c", "broken"))
    out = tmp_path / "tables" / "table.md"
    flags = ["--out", str(out), "--topology", "v5e:4x4"]
    with pytest.raises(UserError, match=r"^failed: .*broken\.py; repeat the command to retry$"):
        aot_table.main([c, broken, a, *flags])
    assert asked == [("c", 64), ("broken", 64), ("a", 64)]
    said = capsys.readouterr()
    assert said.out.endswith(out.read_text())
    assert said.err == "error: the compilation ended with code 2\n"
    rows = aot_table.read_table(str(out), "v5e:4x4")
    assert list(rows) == ["a", "c"]
    cells = list(rows["a"].values())
    assert cells[:13] == [
        *("a", "resnet20_cifar", "64", "2.00", "", "3", "10.0", "7.2", "12", "6", "1,103", "compute", "7")
    ]
    assert cells[13] == "jax 1.0, jaxlib 1.0, libtpu 1.0"
    assert cells[14].endswith(f"{datetime.date.today()}")
    assert cells[15] == "1x5120000000"
    asked.clear()
    b = _write_config(tmp_path / "b.py")
    _write_config(tmp_path / "c.py", steps=2)
    aot_table.main([b, c, *flags])
    assert asked == [("b", 64), ("c", 64)]
    aot_table.main([a, b, c, *flags])
    assert asked[2:] == []
    assert list(aot_table.read_table(str(out), "v5e:4x4")) == ["a", "b", "c"]
    assert [path.name for path in out.parent.iterdir()] == ["table.md"]


def test_rows_stay_where_their_config_fails_and_where_others_write(
    asked: list[tuple[str, int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = str(tmp_path / "table.md")
    lost = [_write_config(tmp_path / "lost.py"), "--batch_per_chip", "65", "--out", out]
    aot_table.main(lost)
    before = aot_table.read_table(out, "v5e:16x16")
    with pytest.raises(UserError, match=r"^failed: "):
        aot_table.main([*lost, "--find_batch"])
    _write_config(tmp_path / "broken.py")
    (tmp_path / "broken.py").rename(tmp_path / "other.py")
    run = aot_table.subprocess.run

    def meanwhile(command: list[str], check: bool) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(aot_table.subprocess, "run", run)
        aot_table.main([str(tmp_path / "other.py"), "--out", out])
        return run(command, check=check)

    monkeypatch.setattr(aot_table.subprocess, "run", meanwhile)
    aot_table.main([_write_config(tmp_path / "a.py"), "--out", out])
    rows = aot_table.read_table(out, "v5e:16x16")
    assert list(rows) == ["a", "lost", "other"]
    assert rows["lost"] == before["lost"]


def test_the_largest_batch_is_looked_for_once(asked: list[tuple[str, int]], tmp_path: Path) -> None:
    out = str(tmp_path / "table.md")
    command = [_write_config(tmp_path / "a.py"), "--out", out]
    aot_table.main(command)
    assert aot_table.read_table(out, "v5e:16x16")["a"]["most images a chip"] == ""
    for _ in range(2):
        aot_table.main([*command, "--find_batch"])
        assert aot_table.read_table(out, "v5e:16x16")["a"]["most images a chip"] == "936"
        tried = [7600, 4280, 2616, 1784, 1368, 1160, 1056, 1008, 984, 960, 936]
        assert asked == [("a", 64), *(("planned", images) for images in [64, *tried])]


_HEAD = "# Training steps compiled for v5e:4x4\n"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\x00",
        b"notes\n| a | b |\n",
        f"{_HEAD}\n| config |\n|---|\n| a |\n".encode(),
        aot_table.table({}, "v5e:16x16").encode(),
        (aot_table.table({}, "v5e:4x4") + "<<<<<<< ours\n").encode(),
        (aot_table.table({}, "v5e:4x4") + 2 * f"| a{' | 1' * 15} |\n").encode(),
    ],
    ids=["empty", "binary", "notes", "other columns", "other topology", "conflict", "a row twice"],
)
def test_a_file_that_is_no_table_of_the_topology_is_left_alone(
    asked: list[tuple[str, int]], tmp_path: Path, fails: Callable[..., str], content: bytes
) -> None:
    out = tmp_path / "notes.md"
    out.write_bytes(content)
    config = _write_config(tmp_path / "a.py")
    said = fails(aot_table.main, config, "--out", str(out), "--topology", "v5e:4x4")
    assert said == f"error: out={str(out)!r} does not hold a table for v5e:4x4: choose another file"
    assert (out.read_bytes(), asked) == (content, [])


def test_configs_of_one_name_are_refused(
    asked: list[tuple[str, int]], tmp_path: Path, fails: Callable[..., str]
) -> None:
    (tmp_path / "other").mkdir()
    paths = [_write_config(tmp_path / "a.py"), _write_config(tmp_path / "other" / "a.py")]
    assert fails(aot_table.main, *paths) == "error: two configs are named a: the table has one row for each name"


def test_every_imagenet_step_fits_a_chip_at_its_papers_batch_or_more() -> None:
    rows = aot_table.read_table(str(ROOT / "docs" / "results" / "aot_table.md"), "v5e:16x16")
    assert len(rows) > 50
    for name, row in rows.items():
        config = read_config_file(name)
        assert row["net"] == config.model.name
        assert re.fullmatch("[0-9a-f]{12}", row["key"])
        assert float(row["GiB a chip"]) <= CHIPS["v5e"].memory
        assert config.data.batch_size <= 256 * int(row["images a chip"]) <= 256 * int(row["most images a chip"])
    assert int(rows["imagenet_cbam_resnet50"]["all-reduces"]) <= 8


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed: the extra aot")
def test_a_step_is_compiled_for_sixteen_chips(config_file: str, tmp_path: Path) -> None:
    counts = {}
    for norm in ("device", "global"):
        out = tmp_path / f"{norm}.json"
        command = [sys.executable, "-m", "train.aot", config_file, "--topology", "v5e:4x4", "--json", str(out)]
        subprocess.run([*command, "--parallel.batch_norm", norm], cwd=ROOT, check=True, capture_output=True)
        stored = json.loads(out.read_text())
        assert (stored["chips"], stored["processes"], stored["step"]["images"]) == (16, 4, 2)
        assert stored["step"]["needed"] < 0.1 * GIB
        counts[norm] = stored["step"]["traffic"]["all-reduce"]["count"]
    assert counts["device"] <= 8 < 60 < counts["global"]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed: the extra aot")
def test_the_largest_batch_that_is_planned_is_compiled_and_fits(config_file: str, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    command = [sys.executable, "-m", "train.aot", config_file, "--topology", "v5e:4x4", "--json", str(out)]
    command += ["--data.image_size", "224", "--batch_per_chip"]
    said = subprocess.run([*command, "8", "--find_batch"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    largest = json.loads(out.read_text())["most_images"]
    smallest = min(int(tried) for tried in re.findall(r"planned +(\d+) images", said) if int(tried) > largest)
    assert largest >= min(0.97 * smallest, smallest - 8)
    subprocess.run([*command, str(largest)], cwd=ROOT, check=True, capture_output=True)
    stored = json.loads(out.read_text())
    assert stored["step"]["images"] == largest > 8
    assert 0.9 * stored["memory_limit"] < stored["step"]["needed"] <= stored["memory_limit"]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed: the extra aot")
def test_the_committed_table_needs_no_compilation(tmp_path: Path) -> None:
    out = tmp_path / "table.md"
    shutil.copy(ROOT / "docs" / "results" / "aot_table.md", out)
    row = aot_table.read_table(str(out), "v5e:16x16")["imagenet_resnet18"]
    if row["compiler"] != ", ".join(f"{name} {version}" for name, version in installed(COMPILER).items()):
        pytest.skip(f"the table was made with {row['compiler']}")
    command = [sys.executable, "-m", "train.aot_table", "imagenet_resnet18", "--out", str(out)]
    said = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert said.splitlines()[1] == "up to date"
