"""One run at a time in a work directory."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.train.support import ROOT
from train.config.errors import UserError
from train.runs.session import locked

HOLD = """\
import sys
from train.runs.session import locked
with locked(sys.argv[1]):
    print('held', flush=True)
    sys.stdin.read()
"""


def test_a_folder_is_made_and_names_the_process_that_holds_it(tmp_path: Path):
    workdir = tmp_path / "runs" / "one"
    with locked(str(workdir)):
        said = (workdir / "lock").read_text()
        assert said.startswith(f"process {os.getpid()} on {socket.gethostname()} since 20")
        with (
            pytest.raises(UserError, match=re.escape(f"{workdir} is in use by {said.strip()}: ")),
            locked(str(workdir)),
        ):
            pass
    with locked(str(workdir)):
        assert (workdir / "lock").read_text().count("process") == 1


def test_a_killed_process_holds_nothing(tmp_path: Path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"is in use by process {process.pid} on "), locked(str(tmp_path)):
            pass
        process.send_signal(signal.SIGKILL)
    with locked(str(tmp_path)):
        pass


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("")
    workdir = tmp_path / "file" / "run"
    with (
        pytest.raises(UserError, match=f"cannot write to work directory {workdir}: Not a directory"),
        locked(str(workdir)),
    ):
        pass


def test_a_file_system_without_locks_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with locked(str(tmp_path)):
        pass
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"note: {tmp_path} cannot be locked (Function not implemented)")
