"""One of several processes, for the tests of train.hosts: python -m tests.train.host_process SCENARIO [FLAGS]"""

from __future__ import annotations

import ctypes
import itertools
import os
import signal
import threading
from collections.abc import Sequence

from train.config.errors import UserError
from train.config.flags import parse, program
from train.hosts.processes import Hosts, barrier, connected, device_summary, gather, is_first, on_first
from train.runs.preemption import preemption


def _agree() -> None:
    import jax
    from jax.experimental.multihost_utils import process_allgather

    print(device_summary(64))
    print("gathered", gather("numbers", [jax.process_index()]), gather("numbers", "again"))
    print("first", on_first("count", lambda: {"process": jax.process_index()}))
    print("all of", sum(len(letters) for letters in gather("letters", "x" * 5_000_000)), "letters")
    with preemption() as preempted:
        for step in itertools.count():
            if preempted():
                break
            process_allgather(step)
            if step == 3:
                print("working", flush=True)
    os.kill(os.getpid(), signal.SIGTERM)  # as a cluster that takes all hosts away, one after the other
    print("preempted at", step)


def _refuse() -> None:
    def refuse() -> None:
        raise UserError("the folder is taken")

    on_first("claim", refuse)


def _stay_away() -> None:
    if is_first():
        barrier("the middle", timeout=1)
    threading.Event().wait()


def _fail_alone() -> None:
    if not is_first():
        raise UserError("image 7 cannot be read")
    threading.Event().wait()


def _fail_unheard() -> None:
    """As where the program that reads standard output and error has ended."""
    reader, writer = os.pipe()
    os.close(reader)
    os.dup2(writer, 1)
    os.dup2(writer, 2)
    print("nobody reads this")
    _fail_alone()


def _abort() -> None:
    """As JAX does it where it misses process 0, in the midst of which the others end in words of their own."""
    barrier("both are there")
    if is_first():
        raise UserError("image 7 cannot be read")
    ctypes.CDLL(None).abort()


def _differ() -> None:
    barrier("left" if is_first() else "right")


def main(arguments: Sequence[str]) -> None:
    """Plays one scenario together with the others."""
    scenarios = (_agree, _refuse, _stay_away, _fail_alone, _fail_unheard, _abort, _differ)
    scenario = {function.__name__: function for function in scenarios}[f"_{arguments[0]}"]
    with connected(parse(Hosts, arguments[1:], prog="host_process")):
        scenario()


if __name__ == "__main__":
    program(main)
