"""A notice that the machine will be taken away."""

from __future__ import annotations

import contextlib
import itertools
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

Reached = Callable[[], bool]


@contextlib.contextmanager
def preemption() -> Iterator[Reached]:
    """Notices SIGTERM instead of dying of it, so that a run can save and end. A second one kills a lone process.

    Ctrl-C still ends the run at once, and tells that the same command goes on.

    Example:
      >>> with preemption() as reached:
      ...     for step in range(3):
      ...         if reached():
      ...             break  # save before this step, and end

    Yields:
      A function to call again and again; it says whether to save and end now. Several processes call it at the same
      places, and it says so to all at the same call, whichever of them has the notice; JAX takes the signals then.
    """
    try:
        with _noticed() as reached:
            yield reached
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command goes on from the last checkpoint") from None


@contextlib.contextmanager
def _noticed() -> Iterator[Reached]:
    import jax

    in_main_thread = threading.current_thread() is threading.main_thread()
    if jax.distributed.is_initialized():
        from jax.experimental.multihost_utils import reached_preemption_sync_point

        calls = itertools.count()

        yield lambda: reached_preemption_sync_point(next(calls))
    elif not in_main_thread:
        yield lambda: False  # Python gives signals to the main thread alone
    else:
        noticed = threading.Event()

        def notice(number: int, frame: FrameType | None) -> None:
            noticed.set()
            signal.signal(signal.SIGTERM, usual)

        usual = signal.signal(signal.SIGTERM, notice) or signal.SIG_DFL
        try:
            yield noticed.is_set
        finally:
            signal.signal(signal.SIGTERM, usual)
