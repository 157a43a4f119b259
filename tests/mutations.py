"""Seeds faults into a copy of the code, one at a time: the short tests named with each must fail.

python -m tests.mutations [--only NUMBER ...]
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent


class Fault(NamedTuple):
    """A line of a file that is replaced, and the tests that must notice."""

    path: str
    old: str
    new: str
    tests: str


STEP, LOSSES = "attnjax/training/_step.py", "attnjax/losses/_cross_entropy.py"
FAULTS = (
    Fault(STEP, "1 - self.ema)", "self.ema)", "tests/training/test_step.py"),
    Fault(STEP, "lambda grad: grad / parts", "lambda grad: grad", "tests/training/test_step.py"),
    Fault(STEP, "jax.random.fold_in(key, state.step)", "key", "tests/training/test_step.py"),
    Fault(STEP, "jnp.where(fresh, state.step,", "jnp.where(fresh, state.step + 1,", "tests/training/test_step.py"),
    Fault(LOSSES, "(1 - smoothing) * class_shares", "class_shares", "tests/losses"),
    Fault(LOSSES, "(correct & mask)", "correct", "tests/training/test_step.py"),
    Fault("attnjax/losses/_ggam.py", "    if stop_gradient:", "    if not stop_gradient:", "tests/losses"),
    Fault("attnjax/training/_mix.py", "[:, ::-1]", "[:, ::1]", "tests/training/test_mix.py"),
    Fault("attnjax/training/_optimizers.py", '("scale", "bias")', '("bias",)', "tests/training/test_optimizers.py"),
    Fault("attnjax/training/_schedules.py", "drops[milestone - warmup]", "drops[milestone]", "tests/training"),
    Fault("attnjax/training/_layout.py", "2**14", "2**30", "tests/training/test_parallel.py"),
    Fault("attnjax/layers/_norm.py", "var * (count / (count - 1))", "var", "tests/layers"),
    Fault("attnjax/attention/_cbam.py", "(maps[0] + maps[1]) / 2", "maps[0] + maps[1]", "tests/golden/test_blocks.py"),
    Fault("train/data/pipeline.py", "np.bool_(offset == 0)", "np.bool_(True)", "tests/train/data/test_pipeline.py"),
    Fault("train/data/images.py", "round((length - part) / 2)", "(length - part) // 2", "tests/train/data"),
    Fault("train/runs/checkpoint.py", "reverse=True)", "reverse=False)", "tests/train/runs/test_checkpoint.py"),
    Fault("train/runs/session.py", '"next_index": self.start', '"next_index": 0', "tests/train/runs/test_run.py"),
    Fault("train/runs/loop.py", "state.eval_variables", "state.variables", "tests/train/runs/test_run.py"),
    Fault("train/config/schema.py", '    "data.num_threads",', '    "data.num_threads", "seed",', "tests/train/runs"),
    Fault("train/tasks/multicrop.py", "crops[:, :, ::-1]", "crops[:, ::-1]", "tests/train/test_evaluate.py"),
)


def is_caught(fault: Fault) -> bool:
    """Whether the tests fail with the fault.

    Raises:
      ValueError: the line is not in the file exactly once.
    """
    text = (ROOT / fault.path).read_text()
    if text.count(fault.old) != 1:
        raise ValueError(f"{fault.path} has {fault.old!r} {text.count(fault.old)} times, not once")
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "checkout"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git", ".venv", "runs", "_build"))
        for name in ("train", "tests/train"):
            shutil.copytree(ROOT / name / "runs", copy / name / "runs", dirs_exist_ok=True)
        (copy / fault.path).write_text(text.replace(fault.old, fault.new))
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-m", "not slow", "-p", "no:cacheprovider", fault.tests]
        done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
        if done.returncode not in (0, 1):
            raise ValueError(f"the tests cannot run: {done.stdout[-500:]}{done.stderr[-500:]}")
        return done.returncode == 1


def main() -> None:
    """Reads the flags and seeds the faults."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", type=int, nargs="*", help="numbers of the faults to seed, from 1; none is all")
    only = parser.parse_args().only or range(1, len(FAULTS) + 1)
    missed = 0
    for number in only:
        fault = FAULTS[number - 1]
        caught = is_caught(fault)
        missed += not caught
        print(
            f"{number}. {fault.path}: {fault.new!r} for {fault.old!r}: {'caught' if caught else 'MISSED'}", flush=True
        )
    print(f"{missed} of {len(only)} missed")
    sys.exit(missed > 0)


if __name__ == "__main__":
    main()
