"""Preemption: SIGTERM asks a run to save and stop."""

from __future__ import annotations

import contextlib
import itertools
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

Preempted = Callable[[], bool]


@contextlib.contextmanager
def preemption() -> Iterator[Preempted]:
    """Catches SIGTERM, so that a run can save and stop. In a single process, a second SIGTERM kills it.

    Ctrl-C still stops the run at once, with a hint that the same command resumes it.

    Example:
      >>> with preemption() as preempted:
      ...     for step in range(3):
      ...         if preempted():
      ...             break  # save before this step, and stop

    Yields:
      A function to poll; it returns whether to save and stop now. With several processes, where JAX handles the signal,
      all must call it equally often, and all get True at the same call, whichever of them received SIGTERM.
    """
    try:
        with _caught() as preempted:
            yield preempted
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command resumes from the last checkpoint") from None


@contextlib.contextmanager
def _caught() -> Iterator[Preempted]:
    import jax

    in_main_thread = threading.current_thread() is threading.main_thread()
    if jax.distributed.is_initialized():
        from jax.experimental.multihost_utils import reached_preemption_sync_point

        calls = itertools.count()

        yield lambda: reached_preemption_sync_point(next(calls))
    elif not in_main_thread:
        yield lambda: False  # Python delivers signals to the main thread only
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
