"""Reads the reference fixtures: numbers computed by the released PyTorch code, with weights from a recipe.

No weight is stored. An entry of the reference's state dict named n is standard normal noise of PCG64(crc32(n)), scaled
as `_weight` says; inputs and cotangents are noise of PCG64(seed) in NCHW order.
"""

from __future__ import annotations

import json
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np

STORED = Path(__file__).parent / "fixtures"


class Fixture:
    """One reference: its manifest and arrays, with inputs turned to NHWC."""

    def __init__(self, folder: Path, path: str) -> None:
        self.manifest: dict[str, Any] = json.loads((folder / f"{path}.json").read_text())
        with np.load(folder / f"{path}.npz") as arrays:
            self.arrays = dict(arrays)

    def state_dict(self) -> dict[str, np.ndarray]:
        """The weights, by their names in PyTorch and in its layouts."""
        rules = self.manifest["scale_rules"]
        return {name: _weight(name, tuple(shape), rules) for name, shape in self.manifest["state_dict"]}

    def images(self, mode: str) -> np.ndarray:
        """Input of a mode, (b, h, w, c)."""
        spec = self.manifest.get("input") or self.manifest[mode]
        return nhwc(_noise(spec["seed"], spec["shape"]))

    def cotangent(self) -> np.ndarray:
        """R of the block fixtures' loss sum(out * R), (b, h, w, c)."""
        return nhwc(_noise(self.manifest["cotangent_seed"], self.manifest["out_shape"]))

    def assert_close(self, key: str, value: Any, rtol: float) -> None:
        """Largest difference over largest reference value."""
        reference, value = self.arrays[key].astype(np.float64), np.asarray(value, np.float64)
        assert value.shape == reference.shape, key
        error = np.abs(value - reference).max() / (np.abs(reference).max() or 1)
        assert error <= rtol, f"{key}: relative error {error:.2e}"


def nhwc(x: np.ndarray) -> np.ndarray:
    return x.transpose(0, 2, 3, 1) if x.ndim == 4 else x


def nchw(x: Any) -> np.ndarray:
    x = np.asarray(x)
    return x.transpose(0, 3, 1, 2) if x.ndim == 4 else x


def sample(x: np.ndarray) -> np.ndarray:
    """64 values of an array in PyTorch's layout."""
    places = np.arange(64) * max(1, x.size // 64)
    return np.ascontiguousarray(x).ravel()[places[places < x.size]]


def to_torch_layout(path: str, value: Any, shape: list[int]) -> np.ndarray:
    """A kernel of ours in the layout that the reference has."""
    value = np.asarray(value)
    if value.ndim == 4:
        return value.transpose(3, 2, 0, 1)
    return value.T.reshape(shape) if path.endswith("kernel") else value


def from_torch_layout(value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if value.ndim == 4 and len(shape) == 4:
        return value.transpose(2, 3, 1, 0)
    return value.reshape(value.shape[:2]).T if value.ndim > 1 else value


def _noise(seed: int, shape: list[int]) -> np.ndarray:
    return np.random.Generator(np.random.PCG64(seed)).standard_normal(tuple(shape)).astype(np.float32)


def _weight(name: str, shape: tuple[int, ...], rules: list[tuple[str, float]]) -> np.ndarray:
    if not shape:
        return np.zeros((), np.int64)
    x = _noise(zlib.crc32(name.encode()), list(shape))
    if len(shape) > 1:
        x *= np.float32(np.sqrt(2 / np.prod(shape[1:])))
    elif name.endswith("running_var"):
        x = np.abs(x) * np.float32(0.2) + np.float32(0.9)
    elif name.endswith(".weight"):
        x = 1 + np.float32(0.1) * x
    else:
        x *= np.float32(0.05)
    for pattern, factor in rules:
        if re.search(pattern, name):
            x = x * np.float32(factor)
    return x


_NAMES = [
    (r"^layer0\.", ""),
    (r"^layer(\d+)\.(\d+)\.", r"stage\1_block\2."),
    (r"downsample\.0\.", "downsample_conv."),
    (r"downsample\.1\.", "downsample_bn."),
    (r"last_linear\.", "fc."),
    (r"(^|\.)cbam\.", r"\1attention."),
    (r"(^|\.)(se_module|se)\.", r"\1attention."),
    (r"ChannelGate\.mlp\.1\.", "channel_gate.mlp.fc1."),
    (r"ChannelGate\.mlp\.3\.", "channel_gate.mlp.fc2."),
    (r"SpatialGate\.spatial\.", "spatial_gate."),
    (r"(^|attention\.)fc(\.0|1)\.(?=weight|bias)", r"\1mlp.fc1."),
    (r"(^|attention\.)fc(\.2|2)\.(?=weight|bias)", r"\1mlp.fc2."),
    (r"^mlp\.1\.", "mlp.fc1."),
    (r"^mlp\.3\.", "mlp.fc2."),
    (r"^spatial\.", ""),
]


def our_path(name: str, is_norm: bool) -> tuple[str, ...]:
    """Collection and path, in our tree, of an entry of the reference's state dict."""
    for pattern, replacement in _NAMES:
        name = re.sub(pattern, replacement, name)
    *modules, leaf = name.split(".")
    if leaf in ("running_mean", "running_var"):
        return ("batch_stats", *modules, leaf.removeprefix("running_"))
    if leaf == "weight":
        leaf = "scale" if is_norm else "kernel"
    return ("params", *modules, leaf)
