"""Importing the package leaves the process as it was."""

from __future__ import annotations

import json
import subprocess
import sys

PROGRAM = """
import json, locale, logging, os, random, signal, sys, threading, warnings
import flax.linen, jax, numpy, optax

def umask():
    with open("/proc/self/status") as file:  # os.umask would set it
        return [line for line in file if line.startswith("Umask")]

def state():
    return {
        "umask": umask(),
        "warnings": [str(item) for item in warnings.filters],
        "environment": dict(os.environ),
        "jax": {name: str(value) for name, value in jax.config.values.items()},
        "signals": [str(signal.getsignal(number)) for number in signal.valid_signals()],
        "folder": os.getcwd(),
        "path": list(sys.path),
        "hooks": [str(item) for item in (sys.excepthook, sys.unraisablehook, threading.excepthook)],
        "threads": threading.active_count(),
        "logging": [logging.root.level, len(logging.root.handlers)],
        "random": hash(random.getstate()),
        "numpy": str(numpy.geterr()) + str(numpy.get_printoptions()),
        "locale": locale.setlocale(locale.LC_ALL),
        "device": str(jax._src.xla_bridge._backends),
    }

calls = []
real = os.umask
os.umask = lambda mask: (calls.append(mask), real(mask))[1]
before = state()
import attnjax, attnjax.training
after = state()
print(json.dumps([name for name in before if before[name] != after[name]] + calls))
"""


def test_importing_changes_no_process_state() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
