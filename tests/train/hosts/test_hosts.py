"""Several processes agree, and end together."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Sequence

import jax
import pytest

from tests.train.launchers import by_jax, by_open_mpi, by_slurm
from tests.train.processes import flags, processes
from train.config.errors import UserError, exit_message
from train.hosts.processes import Hosts, barrier, connected, device_summary, gather, is_first, on_first
from train.runs.preemption import preemption

_RESUME = "start all processes again with the same command: it resumes from the last checkpoint"


def scenario(name: str) -> list[str]:
    return ["-m", "tests.train.host_process", name]


def without_gloo(lines: Sequence[str]) -> list[str]:
    return [line for line in lines if not line.startswith("[Gloo]")]


def test_processes_agree_on_values_and_on_the_step_of_a_preemption_that_one_has_notice_of():
    with processes(lambda process, port: [*scenario("agree"), *flags(process, 2, port)]) as both:
        for process in both:
            process.wait_for("working")
        both[1].signal(signal.SIGTERM)
        assert [process.finish() for process in both] == [0, 0]
    for number, process in enumerate(both):
        assert without_gloo(process.out)[:4] == [
            f"process {number} of 2: 4 of 8 devices (cpu), 32 of 64 images a step",
            "gathered [[0], [1]] ['again', 'again']",
            "first {'process': 0}",
            "all of 10000000 letters",
        ]
    steps = [process.wait_for("preempted at") for process in both]
    assert steps[0] == steps[1]


@pytest.mark.parametrize("victim", [0, 1])
def test_where_one_is_killed_the_other_ends_with_a_line(victim: int):
    with processes(lambda process, port: scenario("agree"), variables=by_open_mpi) as both:
        for process in both:
            process.wait_for("working")
        both[victim].signal(signal.SIGKILL)
        survivor = both[1 - victim]
        assert survivor.finish() == 1
    assert survivor.errors() == [f"error: process {victim} of 2 is lost: {_RESUME}"]


@pytest.mark.parametrize("victim", [0, 1])
def test_where_one_is_frozen_all_end_with_a_line(victim: int):
    def command(process: int, port: int) -> list[str]:
        return [*scenario("agree"), *flags(process, 2, port), "--heartbeat_timeout", "4"]

    with processes(command) as both:
        for process in both:
            process.wait_for("working")
        both[victim].signal(signal.SIGSTOP)
        survivor = both[1 - victim]
        assert survivor.finish() == 1
        both[victim].signal(signal.SIGCONT)
        assert both[victim].finish() == 1
    line = f"error: process {victim} of 2 has been silent for 4 s: {_RESUME}"
    assert survivor.err == [line]
    assert both[victim].errors() == [line]


def test_where_jax_aborts_a_process_the_line_of_the_others_comes_first():
    with processes(lambda process, port: scenario("abort"), variables=by_jax) as both:
        assert [process.finish() for process in both] == [2, 2]
    line = "image 7 cannot be read"
    assert [process.errors() for process in both] == [[f"error: {line}"], [f"error: process 0 of 2: {line}"]]


def test_an_error_on_the_first_reaches_all():
    with processes(lambda process, port: scenario("refuse"), variables=by_slurm) as both:
        assert [process.finish() for process in both] == [2, 2]
    assert [process.errors() for process in both] == [["error: the folder is taken"]] * 2


def test_a_barrier_names_those_that_do_not_come():
    with processes(lambda process, port: scenario("stay_away"), variables=by_jax) as both:
        assert [process.finish() for process in both] == [2, 2]
    line = "process 1 of 2 has not reached 'the middle' after 1 s"
    assert [process.errors() for process in both] == [[f"error: {line}"]] * 2


def test_processes_at_different_places_are_named():
    with processes(lambda process, port: scenario("differ"), variables=by_jax) as both:
        assert [process.finish() for process in both] == [1, 1]
    lines = [
        f"error: process {one} of 2 is at '{place}', and process {other} at '{another}': they must do the same"
        for one, place, other, another in ((0, "left", 1, "right"), (1, "right", 0, "left"))
    ]
    assert both[0].errors() == both[1].errors()
    assert both[0].errors()[0] in lines


def test_an_error_in_one_process_ends_the_others():
    with processes(lambda process, port: scenario("fail_alone"), variables=by_jax) as both:
        assert [process.finish() for process in both] == [2, 2]
    line = "image 7 cannot be read"
    assert [process.errors() for process in both] == [[f"error: process 1 of 2: {line}"], [f"error: {line}"]]


def test_processes_that_nobody_reads_end_as_well():
    with processes(lambda process, port: scenario("fail_unheard"), variables=by_jax) as both:
        assert [process.finish() for process in both] == [2, 2]


def test_one_process_agrees_with_itself():
    with connected(Hosts()):
        barrier("here")
        assert gather("numbers", (1, 2)) == [[1, 2]]
        assert on_first("count", lambda: {"a": (3,)}) == {"a": [3]}
        assert is_first()
        assert device_summary(64) == "8 devices (cpu), 64 images a step"
        with pytest.raises(UserError, match="no"):
            on_first("refuse", refuse)
    with pytest.raises(KeyError), connected(Hosts(num_processes=1)):
        raise KeyError


def refuse() -> None:
    raise UserError("no")


def test_sigterm_is_noticed_once():
    usual = signal.getsignal(signal.SIGTERM)
    with preemption() as preempted:
        assert not preempted()
        os.kill(os.getpid(), signal.SIGTERM)
        assert preempted()
        assert signal.getsignal(signal.SIGTERM) == usual
    with preemption() as preempted:
        assert not preempted()
        assert signal.getsignal(signal.SIGTERM) != usual
    assert signal.getsignal(signal.SIGTERM) == usual


def test_no_signal_comes_to_another_thread():
    seen = []

    def work() -> None:
        with preemption() as preempted:
            seen.append(preempted())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]


OUT_OF_MEMORY = "out of memory: lower data.batch_size or the size of the images, or train fewer seeds together"


@pytest.mark.parametrize(
    ("error", "explained"),
    [
        (UserError("a\n b"), ("a b", 2)),
        (OSError(28, "No space left on device", "/x"), ("/x: No space left on device", 2)),
        (MemoryError(), (OUT_OF_MEMORY, 2)),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory"), (OUT_OF_MEMORY, 2)),
        (jax.errors.JaxRuntimeError("INTERNAL: a fault"), None),
        (KeyboardInterrupt(), ("interrupted", 130)),
        (KeyboardInterrupt("goes on"), ("interrupted; goes on", 130)),
        (KeyError("a"), None),
    ],
)
def test_what_a_user_can_mend_is_explained_in_one_line(error: BaseException, explained: tuple[str, int] | None):
    assert exit_message(error) == explained
