"""Compiles a training step for a TPU topology on a machine without TPUs."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.util
import json
import multiprocessing
import os
import queue
import re
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import topologies

from train.config import Config
from train.config.errors import UserError
from train.pods.chips import Chip, chip_of, wrong_topology
from train.pods.hlo import HloModule, Traffic
from train.pods.memory import memory_traffic
from train.runs.provenance import installed
from train.runs.setup import Program
from train.tasks import task_of
from train.tasks.recipe import Run, make_layout

COMPILER = ("jax", "jaxlib", "libtpu")
"""Packages that determine how a traced step is compiled."""
GIB = 2**30
_WITHOUT_TPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_LOG_DIR": "disabled",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
"""Values that libtpu would otherwise query from a TPU machine, and permission to compile beside another process. The
topology overrides the accelerator type."""


class NotEnoughMemoryError(UserError):
    """A program does not fit on a chip.

    Attributes:
      needed: bytes that the program needs.
    """

    def __init__(self, message: str, needed: int) -> None:
        super().__init__(message)
        self.needed = needed


@dataclasses.dataclass(frozen=True)
class Compiled:
    """The compiler's figures of a training step, per chip.

    Attributes:
      images: images per step on each chip.
      memory: bytes of `arguments`, `outputs`, `temporaries` and `program`; `reused`: outputs that alias arguments.
      flops: operations by XLA's count, with the repetitions of loops.
      accessed: bytes that operations read and write, on-chip memory included, by XLA's count, which counts loops once.
      moved: bytes from and to HBM, see `memory_traffic`.
      traffic: collectives by kind.
      unknown_loops: number of loops that count once because their trip count is unknown.
      seconds: compilation time.
    """

    images: int
    memory: Mapping[str, int]
    flops: float
    accessed: float
    moved: int
    traffic: Mapping[str, Traffic]
    unknown_loops: int
    seconds: float

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> Compiled:
        """Creates it from a JSON record, ignoring other fields."""
        fields = {field.name: record[field.name] for field in dataclasses.fields(cls)}
        return cls(**fields | {"traffic": {kind: Traffic(**of) for kind, of in fields["traffic"].items()}})

    @property
    def needed(self) -> int:
        """Total bytes of memory."""
        return _total(self.memory)

    def times(self, chip: Chip) -> dict[str, float]:
        """Seconds of each part of a step at the chip's peak rate, on its own."""
        return {
            "compute": self.flops / chip.flops,
            "memory": self.moved / chip.memory_bandwidth,
            "collectives": sum(kind.sent for kind in self.traffic.values()) / chip.network_bandwidth,
        }


@dataclasses.dataclass(frozen=True)
class Pod:
    """The chips of a topology, and the compiler for them.

    Attributes:
      topology: name of the topology, such as v5e:16x16.
      chip: peak figures of each chip.
      devices: devices to compile for, one for each chip.
    """

    topology: str
    chip: Chip
    devices: Sequence[Any]

    @classmethod
    def of(cls, topology: str) -> Pod:
        """Returns the pod; raises UserError if libtpu is not installed or the topology is unknown."""
        chip = chip_of(topology)
        require_libtpu()
        os.environ.update(_WITHOUT_TPU)
        jax.config.update("jax_platforms", "cpu")  # libtpu would look for a TPU otherwise
        try:
            return cls(topology, chip, topologies.get_topology_desc(topology, "tpu", **chip.options).devices)
        except jax.errors.JaxRuntimeError as error:
            if "INVALID_ARGUMENT" in str(error):
                raise wrong_topology(topology) from error
            raise

    @property
    def num_processes(self) -> int:
        """Number of hosts."""
        return len({device.process_index for device in self.devices})

    def with_images(self, config: Config, images: int) -> Config:
        """The config with a batch of `images` on each chip."""
        data = dataclasses.replace(config.data, batch_size=images * len(self.devices))
        return dataclasses.replace(config, data=data)

    def key(self, config: Config) -> str:
        """Hash of everything that the compiled program depends on: the traced step, the topology and the compiler."""
        parts = (_lower(config, self.devices).as_text(), self.topology, installed(COMPILER))
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def compile(self, config: Config) -> Compiled:
        """Compiles the training step of a config.

        Raises:
          NotEnoughMemoryError: the step does not fit on a chip.
        """
        images, start = config.data.batch_size // len(self.devices), time.monotonic()
        lowered = _lower(config, self.devices)
        try:
            compiled = _with_progress(lowered.compile, f"compiling for {self.topology}, {images} images a chip")
        except jax.errors.JaxRuntimeError as error:
            raise explain(error, images) from error
        text, seconds = HloModule(compiled.as_text(), len(self.devices)), time.monotonic() - start
        cost = compiled.cost_analysis()
        return Compiled(
            images,
            _memory(compiled),
            cost["flops"] * text.repetition("convolution"),  # XLA counts a loop once
            cost["bytes accessed"],
            memory_traffic(text),
            text.traffic(),
            text.unknown_loops(),
            seconds,
        )

    def planned_bytes(self, config: Config) -> int:
        """Bytes per chip that the training step of a config needs without its program, whether they fit or not.

        The compiler assigns memory within seconds, and then generates code for minutes. It cannot be interrupted, so it
        runs in a subprocess that is killed.

        Raises:
          UserError: the step cannot be compiled.
        """
        images, context = config.data.batch_size // len(self.devices), multiprocessing.get_context("spawn")
        receiver, sender = context.Pipe(duplex=False)
        with receiver, sender, tempfile.TemporaryDirectory() as folder:
            process = context.Process(target=_plan, args=(self.topology, config, folder, sender), daemon=True)
            process.start()
            sender.close()
            try:
                while not receiver.poll(0.1):
                    if (assigned := _assigned(folder)) is not None:
                        return assigned
                result_or_message = receiver.recv()
            except EOFError:
                process.join()
                result_or_message = f"the compiler ended with code {process.exitcode}"
            finally:
                process.kill()
                process.join()
        if isinstance(result_or_message, int):
            return result_or_message
        error = explain(RuntimeError(result_or_message), images)
        if isinstance(error, NotEnoughMemoryError):
            return error.needed
        raise UserError(f"{images} images a chip: {result_or_message.splitlines()[0]}")


def _plan(topology: str, config: Config, folder: str, sender: Connection) -> None:
    """Compiles the step, while the compiler writes its reports to a folder. Exits with its parent process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        lowered = _lower(config, Pod.of(topology).devices)
        memory = _memory(lowered.compile(compiler_options={"xla_dump_to": folder}))
    except Exception as error:
        sender.send(str(error) or repr(error))
    else:
        sender.send(_total(memory) - memory["program"])


def _end_with_parent() -> None:
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)


def _assigned(folder: str) -> int | None:
    """Bytes of HBM from the compiler's report in a folder; None as long as there is none."""
    for path in Path(folder).glob("*.after_optimizations-memory-usage-report.txt"):
        with path.open(encoding="utf-8") as file:
            if total := re.match(r"Memory Space: default \(color=0\)\nTotal bytes: (\d+) ", file.read(200)):
                return int(total[1])
    return None


def require_libtpu() -> None:
    """Raises UserError if libtpu, the compiler for TPUs, is not installed."""
    if importlib.util.find_spec("libtpu") is None:
        raise UserError("libtpu is not installed: pip install -e '.[aot]'")


def explain(error: Exception, images: int) -> Exception:
    """Turns the compiler's out-of-memory error into a NotEnoughMemoryError; returns any other error unchanged."""
    sizes = re.search(r"RESOURCE_EXHAUSTED.*?\(([\d.]+)([MGT])\).*?\(([\d.]+)G\)", str(error), re.DOTALL)
    if sizes is None:
        return error
    needed = float(sizes[1]) * 1024.0 ** ("MGT".index(sizes[2]) - 1)
    message = f"{images} images a chip do not fit: they need {needed:.2f} of {sizes[3]} GiB"
    return NotEnoughMemoryError(message, int(needed * GIB))


def _memory(compiled: jax.stages.Compiled) -> dict[str, int]:
    """Bytes by kind, see `Compiled`."""
    memory: Any = compiled.memory_analysis()
    return {
        "arguments": memory.argument_size_in_bytes,
        "outputs": memory.output_size_in_bytes,
        "reused": memory.alias_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "program": memory.generated_code_size_in_bytes,
    }


def _total(memory: Mapping[str, int]) -> int:
    return sum(memory.values()) - 2 * memory["reused"]


def _lower(config: Config, devices: Sequence[jax.Device]) -> Any:
    """Traces the training step of `python -m train`, without its data set."""
    task, classes = task_of(config), config.model.num_classes
    if classes is None:
        raise UserError("set model.num_classes: the data set is not opened here")
    if config.parallel.engine != "jit":
        raise UserError(f"parallel.engine={config.parallel.engine!r} needs real devices: use 'jit'")
    run = Run(config, tuple(map(str, range(classes))), task.image_shape(config), num_examples=config.data.batch_size)
    layout = make_layout(config, devices)
    training = Program.create(task, run, layout)
    step: Any = training.compiled()
    batch = {
        name: jax.ShapeDtypeStruct(rows.shape, rows.dtype, sharding=layout.split)
        for name, rows in task.abstract_batch(run).items()
    }
    seed = jax.ShapeDtypeStruct((), jnp.uint32, sharding=layout.replicated)
    return step.program.lower(training.state, layout.abstract(training.zero_sums), batch, seed)


def _with_progress(work: Callable[[], Any], label: str) -> Any:
    """Runs `work` in a thread and prints the elapsed time, every second on a terminal, else every 30 seconds."""
    results: queue.SimpleQueue[tuple[Any, Exception | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            results.put((work(), None))
        except Exception as error:
            results.put((None, error))

    terminal, start = sys.stderr.isatty(), time.monotonic()
    before, after, last = ("\r", "", "\r\x1b[K") if terminal else ("", "\n", "")
    threading.Thread(target=run, daemon=True).start()
    try:
        while True:
            with contextlib.suppress(queue.Empty):
                result, error = results.get(timeout=1 if terminal else 30)
                break
            print(f"{before}{label}: {time.monotonic() - start:.0f} s", end=after, file=sys.stderr, flush=True)
    finally:
        print(end=last, file=sys.stderr, flush=True)
    if error is not None:
        raise error
    return result
