"""Single modules against the released PyTorch code: outputs, gradients and running statistics, in float32.

A ReLU or a maximum within rounding of its edge can go the other way in float32, and the gradient jumps. A block that
misses its bounds in float32 must therefore meet the same ones, which are the reference's rounding, in float64.
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


def test_block_gives_the_reference_output_gradients_and_statistics(block: Fixture) -> None:
    manifest = block.manifest
    mapped = map_constructor(manifest["constructor"], blocks.RULES)
    model, images = mapped.build(), block.images("eval")
    variables, names = convert(block, model, mapped, images.shape)
    unused = set(manifest["unused_params"])
    sizes = [int(np.prod(shape)) for name, shape in manifest["state_dict"] if name in unused]
    assert names.parameters() == manifest["params_trainable"] - sum(sizes)
    for mode in manifest["modes"]:
        try:
            check_mode(block, model, variables, names, jnp.asarray(images), mode)
        except AssertionError:
            with jax.enable_x64(True):
                wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), variables)
                check_mode(block, model, wide, names, jnp.asarray(images, jnp.float64), mode)


def check_mode(
    block: Fixture, model: nn.Module, variables: dict[str, Any], names: Names, x: jax.Array, mode: str
) -> None:
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
    noise = block.manifest["noise_float32_vs_float64"][mode]
    block.assert_close_or_sampled(f"{mode}/out", reference.nchw(out), RTOL, MARGIN * noise["out_maxabs"])
    block.assert_close_or_sampled(f"{mode}/dx", reference.nchw(dx), max(RTOL, MARGIN * noise["dx_rel_l2"]))
    found = gradients_in_torch_layout(grads, names)
    largest = max((np.abs(gradient).max() for gradient in found.values()), default=0.0)
    for name, gradient in found.items():
        zero = name in noise["zero_grad_params"]
        rtol = max(RTOL, MARGIN * noise["grad_rel_l2"].get(name, 0.0))
        block.assert_close_or_sampled(f"{mode}/grad/{name}", gradient, 0.0 if zero else rtol, RTOL * largest * zero)
    for name, value in names.statistics(updates).items():
        if mode == "train":
            block.assert_close(f"train/buffer/{name}", value, RTOL)
