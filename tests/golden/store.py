"""Writes the compact copy of a folder of fixtures that is stored beside this file.

    python -m tests.golden.store SOURCE

Kept are the whole index, all blocks, the logits of all nets, the gradients of one net per family, and activation maps
with every eighth value of large ones. Outputs and input gradients of large blocks are kept as a sample and a norm, as
the folder itself keeps large parameter gradients. Of detection all is kept but the larger nets and, where a value does
not depend on the type, what float32 gives.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np

from tests.golden.conftest import CHECKED, cost, family, read_index, with_gradients
from tests.golden.reference import Fixture, sample
from tests.kinds import cheapest

STORED = Path(__file__).parent / "fixtures"
LIMIT = 12_000_000
DETECTION_LIMIT = 4_000_000
OF_BOTH_TYPES = ("operator/anchors", "operator/boxes", "operator/level_mapping", "operator/matcher", "operator/nms")
"""Detection fixtures whose integers are other ones in float64."""
LARGEST, SAMPLE = 4_096, 1_024


def main(source: Path) -> None:
    entries = read_index(source)
    trained = {fixture.manifest["id"] for fixture in cheapest(with_gradients(source), family, cost)}
    kept = [entry for entry in entries if entry["kind"] in CHECKED]
    shutil.rmtree(STORED, ignore_errors=True)
    for entry in kept:
        fixture = Fixture(source, entry["path"])
        target = STORED / entry["path"]
        target.parent.mkdir(parents=True, exist_ok=True)
        manifest = json.dumps(_manifest(fixture), separators=(",", ":"))
        Path(f"{target}.json").write_text(manifest + "\n")
        np.savez_compressed(f"{target}.npz", **_arrays(fixture, entry["kind"], entry["id"] in trained))  # type: ignore[arg-type]
    store_detection(source)
    index = {"fixtures": [{key: entry[key] for key in ("id", "kind", "family", "path")} for entry in entries]}
    (STORED / "index.json").write_text(json.dumps(index, separators=(",", ":")) + "\n")
    size = sum(path.stat().st_size for path in STORED.rglob("*") if path.is_file())
    print(f"{len(kept)} fixtures, {size:,} bytes of at most {LIMIT:,}")
    if size > LIMIT + DETECTION_LIMIT:
        raise SystemExit("too large")


def store_detection(source: Path) -> None:
    """Writes the detection fixtures, and their own index."""
    index = json.loads((source / "detection" / "index.json").read_text())["fixtures"]
    entries = [entry for entry in index if entry["kind"] != "net" or "resnet18" in entry["id"]]
    for entry in entries:
        fixture, target = Fixture(source, entry["path"]), STORED / entry["path"]
        target.parent.mkdir(parents=True, exist_ok=True)
        of_type = not any(family in entry["id"] for family in OF_BOTH_TYPES)
        manifest = {key: value for key, value in fixture.manifest.items() if key not in ("arrays", "source")}
        Path(f"{target}.json").write_text(json.dumps(manifest | {"compact": of_type}, separators=(",", ":")) + "\n")
        arrays = {key: v for key, v in fixture.arrays.items() if not (of_type and f"{key}64" in fixture.keys)}
        np.savez_compressed(f"{target}.npz", **arrays)  # type: ignore[arg-type]
        for path in (source / entry["path"]).parent.glob(f"{target.name}_*.json"):
            if path.stem.endswith(("_input", "_ground_truth", "_detections_bbox", "_detections_segm")):
                shutil.copy(path, target.parent / path.name)
    kept = [{key: entry[key] for key in ("id", "kind", "family", "path")} for entry in entries]
    (STORED / "detection" / "index.json").write_text(json.dumps({"fixtures": kept}, separators=(",", ":")) + "\n")
    size = sum(path.stat().st_size for path in (STORED / "detection").rglob("*") if path.is_file())
    print(f"{len(kept)} detection fixtures, {size:,} bytes of at most {DETECTION_LIMIT:,}")
    if size > DETECTION_LIMIT:
        raise SystemExit("too large")


def _arrays(fixture: Fixture, kind: str, with_training: bool) -> dict[str, np.ndarray]:
    match kind:
        case "block":
            return _block(fixture)
        case "cam":
            return _cam(fixture)
        case "ggam":
            return _ggam(fixture)
    return _net(fixture, with_training)


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


def _cam(fixture: Fixture) -> dict[str, np.ndarray]:
    """Raw maps, and every eighth value of the finished ones."""
    arrays = {}
    for key, value in fixture.arrays.items():
        if key.endswith("/final") and value.size > LARGEST:
            arrays[f"{key}_every8"] = value[:, ::8, ::8]
        elif key.endswith(("/raw", "/final", "/final_every8")):
            arrays[key] = value
    return arrays


def _ggam(fixture: Fixture) -> dict[str, np.ndarray]:
    wanted = ("eval/logits", "eval/attention", "train64/", "train/buffer/")
    return {key: value for key, value in fixture.arrays.items() if key.startswith(wanted)}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
