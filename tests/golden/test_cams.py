"""Class activation maps against pytorch-grad-cam: raw maps, finished maps and smoothed ones."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from attnjax.explain import CAM, grad_cam
from attnjax.explain._scale import picture
from tests.golden import nets
from tests.golden.constructors import UnknownConstructor, map_constructor
from tests.golden.parity import convert
from tests.golden.reference import Fixture

METHODS = {
    "GradCAM": "grad_cam",
    "GradCAMPlusPlus": "grad_cam++",
    "XGradCAM": "xgrad_cam",
    "HiResCAM": "hires_cam",
    "LayerCAM": "layer_cam",
    "GradCAMElementWise": "grad_cam_elementwise",
    "EigenCAM": "eigen_cam",
    "EigenGradCAM": "eigen_grad_cam",
    "ScoreCAM": "score_cam",
    "AblationCAM": "ablation_cam",
    "FullGrad": "full_grad",
}
RAW, FINAL = 1e-5, 1e-4
EPS = np.finfo(np.float32).eps
KINDS = ("/raw", "/final", "/final_every8")


def ours(layer: str) -> str:
    """Name of a layer, such as `layer4.-1`, the last block of the fourth stage."""
    match = re.fullmatch(r"layer(\d+)\.(-1|\d+)", layer)
    if match is None:
        raise UnknownConstructor(f"no rule for the layer {layer!r}")
    return f"stage{match[1]}" if match[2] == "-1" else f"stage{match[1]}_block{match[2]}"


def test_maps_are_those_of_the_reference(cam: Fixture) -> None:
    """Where rounding decides if a ReLU passes, for images within float32's rounding of the reference's.

    Otherwise the way that a processor sums would decide whether this test passes.
    """
    keys, images = [key for key in cam.keys if key.endswith(KINDS)], cam.images("eval")
    apart = _apart(cam, keys)(images)
    assert len(apart) <= len(keys) / 10, apart
    if apart:
        again, rng = _apart(cam, apart), np.random.default_rng(0)
        rounded = (images * (1 + EPS * rng.integers(-1, 2, images.shape, np.int8)) for _ in range(8))
        assert any(not again(x.astype(np.float32)) for x in rounded), apart


def _apart(cam: Fixture, keys: Sequence[str]) -> Callable[[np.ndarray], dict[str, AssertionError]]:
    """Of images, which of the reference's arrays are not theirs, and why."""
    explain = _explain(cam, keys)

    def apart(images: np.ndarray) -> dict[str, AssertionError]:
        found = {}
        for name, result in explain(jnp.asarray(images)).items():
            for key in (key for key in keys if key.rpartition("/")[0] == name):
                try:
                    _compare(cam, key, result)
                except AssertionError as error:
                    found[key] = error
        return found

    return apart


def _compare(cam: Fixture, key: str, result: CAM) -> None:
    _, _, *size = cam.manifest["input"]["shape"]
    raw, final = next(iter(result.raw.values())), result.map
    if "igen" in key:  # a principal component, of either sign
        name, _, _ = key.rpartition("/")
        signs = _signs(cam, next(key for key in cam.keys if key.startswith(f"{name}/") and key.endswith(KINDS)), raw)
        raw, final = signs * raw, picture([signs * raw], size)
    if key.endswith("/raw"):
        cam.assert_close(key, raw, RAW)
    else:
        cam.assert_close(key, _like(cam.arrays[key], final), atol=FINAL)


def _like(reference: np.ndarray, final: jax.Array) -> jax.Array:
    """A finished map where the reference has it, which is every eighth value for large ones."""
    step = final.shape[1] // reference.shape[1]
    return final[:, ::step, ::step]


def _signs(cam: Fixture, key: str, raw: jax.Array) -> np.ndarray:
    """The sign of each image's map that brings it closer to the reference's raw map, or its finished one."""
    reference = cam.arrays[key]
    _, _, *size = cam.manifest["input"]["shape"]
    both = [raw, -raw] if key.endswith("/raw") else [_like(reference, picture([x], size)) for x in (raw, -raw)]
    errors = [np.abs(x - reference).max((1, 2), keepdims=True) for x in both]
    return np.where(errors[0] < errors[1], np.float32(1), np.float32(-1))


def _explain(cam: Fixture, keys: Sequence[str]) -> Callable[[jax.Array], dict[str, CAM]]:
    """Maps of images by their names in the fixture, such as `GradCAM_aug_smooth/layer3.-1` and `GradCAM/multi`."""
    mapped = map_constructor(cam.manifest["constructor"], nets.RULES)
    net = mapped.build()
    variables, _ = convert(cam, net, mapped, cam.images("eval").shape)
    target = np.asarray(cam.manifest["targets"]) if cam.manifest["targets_given"] else None
    names = dict.fromkeys(key.rpartition("/")[0] for key in keys)

    @jax.jit
    def run(variables: Any, images: jax.Array) -> dict[str, CAM]:
        results = {}
        for name in names:
            method, *layer = name.split("/")
            method, *smooth = method.split("_", 1)
            layers = [ours(each) for each in (cam.manifest["target_layers"] if layer == ["multi"] else layer)]
            options = dict.fromkeys(smooth, True) | {"method": METHODS[method], "target": target}
            results[name] = grad_cam(net, variables, images, layer=layers, **options)
        return results

    return partial(run, variables)
