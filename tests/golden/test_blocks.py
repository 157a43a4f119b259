"""Single modules against the released PyTorch code: outputs, gradients and running statistics, in float32.

A ReLU or a maximum within rounding of its edge can go the other way in float32, and the gradients jump. Gradients that
miss their bounds, which are the reference's rounding, must therefore still be near, and meet the same bounds in
float64. Outputs and statistics do not jump: theirs hold in float32.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tests.golden import blocks, reference
from tests.golden.constructors import map_constructor
from tests.golden.parity import Names, convert, gradients_in_torch_layout
from tests.golden.reference import Fixture

RTOL, MARGIN = 1e-5, 20
JUMP = 2e-2
"""How far a gradient may be off in float32, relative in L2, if it is right in float64: where one value goes the other
way, the gradient of a bias of 16 values moves by 1.1e-2, that of the input by 1e-3."""


def test_block_gives_the_reference_output_gradients_and_statistics(block: Fixture) -> None:
    manifest = block.manifest
    mapped = map_constructor(manifest["constructor"], blocks.RULES)
    model, images = mapped.build(), block.images("eval")
    variables, names = convert(block, model, mapped, images.shape)
    unused = set(manifest["unused_params"])
    sizes = [int(np.prod(shape)) for name, shape in manifest["state_dict"] if name in unused]
    assert names.parameters() == manifest["params_trainable"] - sum(sizes)
    for mode in manifest["modes"]:
        out, statistics, gradients = step(block, model, variables, names, jnp.asarray(images), mode)
        check_output_and_statistics(block, mode, out, statistics)
        try:
            check_gradients(block, mode, gradients, RTOL)
        except AssertionError:
            check_gradients(block, mode, gradients, JUMP)
            with jax.enable_x64(True):
                wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), variables)
                _, _, gradients = step(block, model, wide, names, jnp.asarray(images, jnp.float64), mode)
            check_gradients(block, mode, gradients, RTOL)


def step(
    block: Fixture, model: nn.Module, variables: dict[str, Any], names: Names, x: jax.Array, mode: str
) -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Output, running statistics and gradients, these as `dx` and `grad/NAME`, in PyTorch's layouts."""
    stats, cotangent = variables.get("batch_stats", {}), jnp.asarray(block.cotangent(), x.dtype)

    @jax.jit
    def run(params: Any, x: jax.Array) -> Any:
        def loss(params: Any, x: jax.Array) -> Any:
            x = nn.relu(x) if block.manifest["input"]["relu"] else x
            inputs = {"params": params, "batch_stats": stats}
            out, updates = model.apply(inputs, x, train=mode == "train", mutable=["batch_stats"])
            return jnp.sum(out * cotangent), (out, updates)

        return jax.value_and_grad(loss, (0, 1), has_aux=True)(params, x)

    (_, (out, updates)), (grads, dx) = run(variables.get("params", {}), x)
    found = {f"grad/{name}": gradient for name, gradient in gradients_in_torch_layout(grads, names).items()}
    return reference.nchw(out), names.statistics(updates), {"dx": reference.nchw(dx), **found}


def check_output_and_statistics(block: Fixture, mode: str, out: np.ndarray, statistics: dict[str, np.ndarray]) -> None:
    noise = block.manifest["noise_float32_vs_float64"][mode]
    block.assert_close_or_sampled(f"{mode}/out", out, RTOL, MARGIN * noise["out_maxabs"])
    for name, value in statistics.items():
        if mode == "train":
            block.assert_close(f"train/buffer/{name}", value, RTOL)


def check_gradients(block: Fixture, mode: str, gradients: dict[str, np.ndarray], rtol: float) -> None:
    """The absolute bound is for those that are zero in exact arithmetic."""
    noise = block.manifest["noise_float32_vs_float64"][mode]
    rounding = {"dx": noise["dx_rel_l2"]} | {f"grad/{name}": error for name, error in noise["grad_rel_l2"].items()}
    zero = {f"grad/{name}" for name in noise["zero_grad_params"]}
    largest = max((np.abs(value).max() for name, value in gradients.items() if name != "dx"), default=0.0)
    for name, gradient in gradients.items():
        relative, absolute = max(rtol, MARGIN * rounding.get(name, 0.0)), 0.0
        if name in zero:
            relative, absolute = 0.0, rtol * largest
        block.assert_close_or_sampled(f"{mode}/{name}", gradient, relative, absolute)
