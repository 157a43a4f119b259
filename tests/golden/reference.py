"""Reads the reference fixtures: numbers computed by the released PyTorch code, with weights from a recipe.

No weight is stored. An entry of the reference's state dict named n is standard normal noise of PCG64(crc32(n)), scaled
as `_weight` says; inputs and cotangents are noise of PCG64(seed) in NCHW order.
"""

from __future__ import annotations

import json
import math
import re
import zlib
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np


class Fixture:
    """One reference: its manifest and arrays, with inputs turned to NHWC."""

    def __init__(self, folder: Path, path: str) -> None:
        self.path = folder / path
        self.manifest: dict[str, Any] = json.loads(Path(f"{self.path}.json").read_text())

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        with np.load(f"{self.path}.npz") as arrays:
            return dict(arrays)

    @cached_property
    def keys(self) -> list[str]:
        with np.load(f"{self.path}.npz") as arrays:
            return arrays.files

    def state_dict(self) -> dict[str, np.ndarray]:
        """The weights, by their names in PyTorch and in its layouts."""
        rules, tied = self.manifest["scale_rules"], self.manifest.get("aliases", {})
        return {name: _weight(tied.get(name, name), tuple(shape), rules) for name, shape in self.manifest["state_dict"]}

    def images(self, mode: str) -> np.ndarray:
        """Input of a mode, (b, h, w, c)."""
        spec = self._input(mode)
        return nhwc(noise(spec["seed"], spec["shape"]))

    def input_size(self, mode: str) -> int:
        """Number of values of the input of a mode."""
        return math.prod(self._input(mode)["shape"])

    def _input(self, mode: str) -> dict[str, Any]:
        spec: dict[str, Any] = self.manifest.get("input") or self.manifest[mode]
        return spec

    def cotangent(self) -> np.ndarray:
        """R of the block fixtures' loss sum(out * R), (b, h, w, c)."""
        return nhwc(noise(self.manifest["cotangent_seed"], self.manifest["out_shape"]))

    def assert_close(self, key: str, value: Any, rtol: float = 0.0, atol: float = 0.0) -> None:
        """The difference is at most atol everywhere, or at most rtol of the reference in L2."""
        reference, value = self.arrays[key].astype(np.float64), np.asarray(value, np.float64)
        assert value.shape == reference.shape, f"{key}: shape {value.shape} is not {reference.shape}"
        difference = value - reference
        largest = np.abs(difference).max(initial=0.0)
        relative = np.linalg.norm(difference) / (np.linalg.norm(reference) or 1.0)
        assert largest <= atol or relative <= rtol, (
            f"{key}: largest error {largest:.2e} (allowed {atol:.2e}), relative L2 {relative:.2e} (allowed {rtol:.2e})"
        )

    def assert_close_or_sampled(self, key: str, value: np.ndarray, rtol: float = 0.0, atol: float = 0.0) -> None:
        """As `assert_close`, for MODE/KIND/NAME that may be stored as a sample and a norm, MODE/KINDsample/NAME."""
        mode, kind, *name = key.split("/", 2)
        if key in self.arrays:
            self.assert_close(key, value, rtol, atol)
            return
        key = "/".join([mode, f"{kind}sample", *name])
        self.assert_close(key, sample(value, self.arrays[key].size), rtol, atol)
        self.assert_close("/".join([mode, f"{kind}norm", *name]), np.linalg.norm(value.astype(np.float64)), rtol, atol)


def nhwc(x: np.ndarray) -> np.ndarray:
    return x.transpose(0, 2, 3, 1) if x.ndim == 4 else x


def nchw(x: Any) -> np.ndarray:
    x = np.asarray(x)
    return x.transpose(0, 3, 1, 2) if x.ndim == 4 else x


def sample(x: np.ndarray, size: int = 64) -> np.ndarray:
    """64 values of an array in PyTorch's layout."""
    places = np.arange(size) * max(1, x.size // size)
    return np.ascontiguousarray(x).ravel()[places[places < x.size]]


def noise(seed: int, shape: list[int]) -> np.ndarray:
    return np.random.Generator(np.random.PCG64(seed)).standard_normal(tuple(shape)).astype(np.float32)


def _weight(name: str, shape: tuple[int, ...], rules: list[tuple[str, float]]) -> np.ndarray:
    if not shape:
        return np.zeros((), np.int64)
    x = noise(zlib.crc32(name.encode()), list(shape))
    if len(shape) > 1:
        x *= np.float32(np.sqrt(2 / np.prod(shape[1:])))
    elif name.endswith("running_var"):
        x = np.abs(x) * np.float32(0.2) + np.float32(0.9)
    elif name.rpartition(".")[2] == "weight":
        x = 1 + np.float32(0.1) * x
    else:
        x *= np.float32(0.05)
    for pattern, factor in rules:
        if re.search(pattern, name):
            x = x * np.float32(factor)
    return x
