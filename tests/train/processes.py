"""Several processes of one machine, as if each were on a host of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from tests.train.launchers import PREFIXES
from tests.train.support import SMALL, cached, in_flags

ROOT = Path(__file__).resolve().parents[2]
TOGETHER = {
    "data.channels": 1,
    "optimizer.learning_rate": 1e-4,
    "schedule.kind": "constant",
    "schedule.warmup": 0.0,
    "checkpoint_every_steps": 2,
    "evaluate_every_steps": 4,
    "log_every_steps": 1,
}
"""Settings of small runs that several processes share; the learning rate is low, so that rounding does not grow."""


def free_port() -> int:
    """A port that nothing listens at."""
    with socket.create_server(("localhost", 0)) as server:
        return server.getsockname()[1]


def flags(process: int, count: int, port: int) -> list[str]:
    """Flags that bring a process together with the others."""
    return ["--coordinator", f"localhost:{port}", "--num_processes", str(count), "--process_id", str(process)]


class Process:
    """A running program; what it says is collected line by line."""

    def __init__(self, command: Sequence[str], variables: Mapping[str, str]) -> None:
        self.out: list[str] = []
        self.err: list[str] = []
        self._said = threading.Condition()
        self._speaks = True
        self._popen = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env={**{name: said for name, said in os.environ.items() if not name.startswith(PREFIXES)}, **variables},
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        streams = ((self._popen.stdout, self.out), (self._popen.stderr, self.err))
        self._readers = [threading.Thread(target=self._read, args=pair, daemon=True) for pair in streams]
        for reader in self._readers:
            reader.start()

    def _read(self, stream: IO[str], lines: list[str]) -> None:
        with stream:
            for line in stream:
                with self._said:
                    lines.append(line.rstrip("\n"))
                    self._said.notify_all()
        with self._said:
            self._speaks = self._speaks and lines is not self.out
            self._said.notify_all()

    def wait_for(self, beginning: str, timeout: float = 120) -> str:
        """Waits for a line of standard output, and returns it."""
        with self._said:
            self._said.wait_for(lambda: self._line(beginning) or not self._speaks, timeout)
            found = self._line(beginning)
        assert found, (beginning, self.out, self.err)
        return found

    def _line(self, beginning: str) -> str | None:
        return next((line for line in self.out if line.startswith(beginning)), None)

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to the process and those that it started."""
        os.killpg(self._popen.pid, number)

    def finish(self, timeout: float = 120) -> int:
        """Waits for its end, and returns the exit code."""
        code = self._popen.wait(timeout)
        for reader in self._readers:
            reader.join()
        return code

    def errors(self) -> list[str]:
        """The lines that it meant for the user."""
        return [line for line in self.err if line.startswith("error: ")]


@contextlib.contextmanager
def processes(
    command: Callable[[int, int], Sequence[str]],
    count: int = 2,
    devices: int = 4,
    variables: Callable[[int, int], Mapping[str, str]] | None = None,
) -> Iterator[list[Process]]:
    """Starts processes, and kills those that are left at the end.

    Args:
      command: of a process and a free port; what comes behind `python`.
      count: processes.
      devices: virtual CPU devices of each.
      variables: of a process and the port; they are added to the environment.

    Yields:
      The processes, in order.
    """
    port = free_port()
    shared = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    with contextlib.ExitStack() as stack:
        started = []
        for process in range(count):
            own = {} if variables is None else variables(process, port)
            started.append(Process(command(process, port), {**shared, **own}))
            stack.callback(_kill, started[-1])
        yield started


def training_together(
    settings: Callable[[int], Mapping[str, object]], cache: Path, count: int = 2, devices: int = 1
) -> contextlib.AbstractContextManager[list[Process]]:
    """Starts processes that train one run.

    Args:
      settings: of a process; they replace those of `TOGETHER`, and `workdir` and the duration are among them.
      cache: folder of compiled programs.
      count: processes; one trains alone.
      devices: virtual CPU devices of each.
    """

    def command(process: int, port: int) -> list[str]:
        where = flags(process, count, port) if count > 1 else []
        return ["-m", "train", SMALL, *in_flags({**TOGETHER, **settings(process)}), *where]

    return processes(command, count, devices, lambda process, port: cached(cache))


def _kill(process: Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.signal(signal.SIGKILL)
    process.finish()
