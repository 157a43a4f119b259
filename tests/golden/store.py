"""Writes the compact copy of a folder of fixtures that is stored beside this file.

    python -m tests.golden.store SOURCE

Kept are all blocks, the logits of all nets, and the gradients of one net per family. Outputs and
input gradients of large blocks are kept as a sample and a norm, as the folder itself keeps large parameter gradients.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np

from tests.golden.conftest import with_gradients
from tests.golden.reference import Fixture, sample

STORED = Path(__file__).parent / "fixtures"
LIMIT = 12_000_000
LARGEST, SAMPLE = 4_096, 1_024


def main(source: Path) -> None:
    entries = json.loads((source / "index.json").read_text())["fixtures"]
    trained = {fixture.manifest["id"] for fixture in with_gradients(source, full=False)}
    kept = [entry for entry in entries if entry["kind"] in ("block", "model")]
    shutil.rmtree(STORED, ignore_errors=True)
    for entry in kept:
        fixture = Fixture(source, entry["path"])
        target = STORED / entry["path"]
        target.parent.mkdir(parents=True, exist_ok=True)
        manifest = json.dumps(_manifest(fixture), separators=(",", ":"))
        Path(f"{target}.json").write_text(manifest + "\n")
        arrays = _block(fixture) if entry["kind"] == "block" else _net(fixture, entry["id"] in trained)
        np.savez_compressed(f"{target}.npz", **arrays)  # type: ignore[arg-type]
    index = {"fixtures": [{key: entry[key] for key in ("id", "kind", "family", "path")} for entry in kept]}
    (STORED / "index.json").write_text(json.dumps(index, separators=(",", ":")) + "\n")
    size = sum(path.stat().st_size for path in STORED.rglob("*") if path.is_file())
    print(f"{len(kept)} fixtures, {size:,} bytes of at most {LIMIT:,}")
    if size > LIMIT:
        raise SystemExit("too large")


def _manifest(fixture: Fixture) -> dict[str, object]:
    dropped = ("gen", "buffers", "eval_stages", "train_stages", "split")
    return {key: value for key, value in fixture.manifest.items() if key not in dropped}


def _block(fixture: Fixture) -> dict[str, np.ndarray]:
    arrays = {}
    for key, value in fixture.arrays.items():
        mode, kind, *name = key.split("/", 2)
        if kind == "loss":
            continue
        if kind in ("out", "dx", "grad") and value.size > LARGEST:
            arrays["/".join([mode, f"{kind}sample", *name])] = sample(value, SAMPLE)
            arrays["/".join([mode, f"{kind}norm", *name])] = np.asarray(np.linalg.norm(value.astype(np.float64)))
        else:
            arrays[key] = value
    return arrays


def _net(fixture: Fixture, with_training: bool) -> dict[str, np.ndarray]:
    wanted = ["eval/logits", "eval/logits64"]
    if with_training:
        wanted += ["train/logits64", "train64/", "train/buffer"]
    return {key: value for key, value in fixture.arrays.items() if any(key.startswith(start) for start in wanted)}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
