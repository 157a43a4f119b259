"""One of several processes, for the tests of train.hosts: python -m tests.train.member SCENARIO [FLAGS]"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from train.cli import parse, program
from train.errors import UserError
from train.hosts import Hosts, barrier, connected, gather, is_first, on_first, standing
from train.preemption import preemption


def _agree() -> None:
    import jax
    from jax.experimental.multihost_utils import process_allgather

    print(standing(64))
    print("gathered", gather("numbers", [jax.process_index()]), gather("numbers", "again"))
    print("first", on_first("count", lambda: {"process": jax.process_index()}))
    with preemption() as reached:
        for step in range(10**9):
            if reached(step):
                break
            process_allgather(step)
            if step == 3:
                print("working", flush=True)
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


def main(arguments: Sequence[str]) -> None:
    """Plays one scenario together with the others."""
    scenario = {"agree": _agree, "refuse": _refuse, "stay_away": _stay_away, "fail_alone": _fail_alone}[arguments[0]]
    with connected(parse(Hosts, arguments[1:], prog="member")):
        scenario()


if __name__ == "__main__":
    program(main)
