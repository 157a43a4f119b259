"""python -m train.benchmark layers OUT.md | model NAME [--image_size 64] [--batch 2] [--steps 5] [--native True]"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import attnjax
from attnjax.layers import _convolve as convolve
from attnjax.layers import native_convolutions
from attnjax.layers._convolve import Window
from attnjax.losses import CrossEntropy
from attnjax.training import TrainState, make_train_step, sgd
from train.config.atomic import replacing
from train.config.errors import UserError
from train.config.flags import parse, program
from train.runs.provenance import processor

_FORMS = (
    convolve.native,
    convolve.grouped,
    convolve.block_diagonal,
    convolve.shifted_products,
    convolve.matrix_product,
    convolve.patches_product,
)


@dataclasses.dataclass(frozen=True)
class Shape:
    """A convolution of a net, for a batch of 2."""

    net: str
    size: int
    channels: int
    features: int
    kernel_size: int
    groups: int = 1
    stride: int = 1
    dilation: int = 1

    @property
    def window(self) -> Window:
        """Padded to keep the size at stride 1."""
        return Window(self.stride, self.dilation * (self.kernel_size - 1) // 2, self.dilation, self.groups)

    def operands(self) -> tuple[jax.Array, jax.Array]:
        """An input and a kernel."""
        rng = np.random.default_rng(0)
        x = rng.standard_normal((2, self.size, self.size, self.channels), np.float32)
        per_group = self.channels // self.groups
        kernel = rng.standard_normal((self.kernel_size, self.kernel_size, per_group, self.features), np.float32)
        return jnp.asarray(x), jnp.asarray(kernel)

    def forms(self) -> list[convolve.Lowering]:
        """The forms that can compute it."""
        fits = {
            convolve.grouped: self.groups > 1,
            convolve.block_diagonal: self.groups > 1,
            convolve.shifted_products: self.groups == self.channels == self.features,
            convolve.matrix_product: self.groups == self.kernel_size == 1,
            convolve.patches_product: self.groups == 1 and self.kernel_size > 1,
        }
        return [form for form in _FORMS if fits.get(form, True)]


_SHAPES = (
    *(
        Shape("EPSANet", size, channels, channels // 4, kernel_size, groups)
        for size, channels in ((16, 64), (8, 128), (4, 256), (2, 512), (56, 64), (28, 128), (14, 256), (7, 512))
        for kernel_size, groups in ((5, 4), (7, 8), (9, 16))
    ),
    Shape("EPSANet", 28, 256, 64, 9, 16, stride=2),
    Shape("ResNeXt", 56, 128, 128, 3, 32),
    Shape("ResNeXt", 28, 256, 256, 3, 32),
    Shape("ResNeXt", 28, 512, 512, 3, 32, stride=2),
    Shape("ResNeXt", 7, 1024, 1024, 3, 32),
    Shape("SENet", 28, 256, 256, 3, 64),
    Shape("SK", 14, 256, 256, 3, 32, dilation=2),
    Shape("MobileNet", 112, 32, 32, 3, 32),
    Shape("MobileNet", 112, 64, 64, 3, 64, stride=2),
    Shape("MobileNet", 14, 512, 512, 3, 512),
    Shape("MobileNet", 7, 1024, 1024, 3, 1024),
    Shape("ResNet", 56, 64, 256, 1),
    Shape("ResNet", 14, 1024, 256, 1),
    Shape("ResNet", 56, 256, 512, 1, stride=2),
    Shape("ResNet", 4, 1024, 2048, 1, stride=2),
    Shape("ResNet", 56, 64, 64, 3),
    Shape("ResNet", 7, 512, 512, 3),
    Shape("ResNet", 4, 512, 512, 3, stride=2),
    Shape("ResNet", 2, 512, 512, 3),
)


@dataclasses.dataclass(frozen=True)
class Layers:
    """Times each form of the nets' convolutions, value and both gradients together, and writes a table."""

    out: tyro.conf.Positional[str]
    """Markdown file to write."""
    repeats: int = 5
    """Timings of each form; the forms of a shape are timed in turn."""


@dataclasses.dataclass(frozen=True)
class Model:
    """Times a training step (forward, loss, gradients, SGD with momentum) of a named net on random images."""

    name: tyro.conf.Positional[str]
    """A net of the zoo, see python -m attnjax."""
    image_size: int = 64
    """Side of the images in pixels."""
    batch: int = 2
    """Images of a step."""
    steps: int = 5
    """Steps to time, after one warm-up step."""
    native: bool = False
    """Use XLA's own convolutions, for comparison."""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Measures how fast this machine computes."""

    command: Annotated[
        Annotated[Layers, tyro.conf.subcommand("layers")] | Annotated[Model, tyro.conf.subcommand("model")],
        tyro.conf.arg(name=""),
    ]


def machine() -> str:
    """What the figures were measured on."""
    return f"{processor()}, device {jax.devices()[0].device_kind}, jax {jax.__version__}"


def interleaved(calls: Sequence[Callable[[], Any]], repeats: int) -> list[list[float]]:
    """Seconds of each call. The calls are timed in turn, after one warm-up call each."""
    times: list[list[float]] = [[] for _ in calls]
    for turn in range(repeats + 1):
        for call, seconds in zip(calls, times, strict=True):
            start = time.perf_counter()
            jax.block_until_ready(call())
            if turn:
                seconds.append(time.perf_counter() - start)
    return times


def _time_forms(shape: Shape, repeats: int) -> list[tuple[convolve.Lowering, list[float]]]:
    x, kernel = shape.operands()
    compiled = []
    for form in shape.forms():

        def loss(x: jax.Array, kernel: jax.Array, form: convolve.Lowering = form) -> jax.Array:
            return jnp.sum(jnp.square(form(x, kernel, shape.window)))

        compiled.append(jax.jit(jax.value_and_grad(loss, (0, 1))).lower(x, kernel).compile())
    times = interleaved([partial(call, x, kernel) for call in compiled], repeats)
    return list(zip(shape.forms(), times, strict=True))


def measure_layers(arguments: Layers) -> None:
    """Writes the table."""
    _require_positive(arguments, "repeats")
    folder = os.path.dirname(arguments.out) or "."
    if not os.path.isdir(folder):
        raise UserError(f"OUT={arguments.out}: there is no folder {folder}")
    lines = [
        "# Forms of a convolution",
        "",
        f"Value and both gradients, batch 2, float32, milliseconds: median (least-most) of {arguments.repeats}. Bold:",
        "the form that attnjax uses on CPUs; elsewhere it uses `native`. The rule is in `attnjax/layers/_convolve.py`.",
        f"{machine()}, {datetime.date.today().isoformat()},",
        f"`python -m train.benchmark layers {arguments.out} --repeats {arguments.repeats}`.",
        "",
        "| net | map | channels | kernel | groups | stride | dilation | "
        + " | ".join(f.__name__ for f in _FORMS)
        + " |",
        "|---" * (7 + len(_FORMS)) + "|",
    ]
    for shape in _SHAPES:
        x, kernel = shape.operands()
        chosen = convolve.choose_for_cpu(x.shape, kernel.shape, shape.window)
        cells = dict.fromkeys((form.__name__ for form in _FORMS), "")
        for form, times in _time_forms(shape, arguments.repeats):
            text = (
                f"{_milliseconds(statistics.median(times))} ({_milliseconds(min(times))}-{_milliseconds(max(times))})"
            )
            cells[form.__name__] = f"**{text}**" if form is chosen else text
        channels = f"{shape.channels} to {shape.features}"
        about = (shape.net, shape.size, channels, shape.kernel_size, shape.groups, shape.stride, shape.dilation)
        lines.append("| " + " | ".join([*map(str, about), *cells.values()]) + " |")
        print(lines[-1], flush=True)
    with replacing(arguments.out) as path, open(path, "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.3g}" if seconds < 1 else f"{1000 * seconds:.0f}"


def _require_positive(arguments: Layers | Model, *names: str) -> None:
    for name in names:
        if getattr(arguments, name) < 1:
            raise UserError(f"--{name}={getattr(arguments, name)} must be at least 1")


def measure_model(arguments: Model) -> None:
    """Prints compile and step time."""
    _require_positive(arguments, "image_size", "batch", "steps")
    shape = (arguments.batch, arguments.image_size, arguments.image_size, 3)
    try:
        model = attnjax.create_model(arguments.name)
        variables = attnjax.init(model, jax.random.key(0), shape)
    except ValueError as error:
        raise UserError(str(error)) from error
    images = np.random.default_rng(0).standard_normal(shape, np.float32)
    batch = {"image": jnp.asarray(images), "label": jnp.zeros(arguments.batch, jnp.int32)}
    optimizer, key = sgd(0.01), jax.random.key(0)
    step = make_train_step(model, optimizer, CrossEntropy())
    state = TrainState.create(variables, optimizer)
    sums = step.init(state, batch, key)

    start = time.perf_counter()
    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(state, sums, batch, key).compile()
    compile_seconds = time.perf_counter() - start

    def take_step() -> TrainState:
        nonlocal state, sums
        state, sums = compiled(state, sums, batch, key)
        return state

    (times,) = interleaved([take_step], arguments.steps)
    size = f"{arguments.image_size}x{arguments.image_size}"
    print(f"{arguments.name}, {size}, batch {arguments.batch}, float32; {machine()}")
    print(f"compile_seconds={compile_seconds:.1f}")
    print(
        f"step_milliseconds={_milliseconds(statistics.median(times))} "
        f"(least {_milliseconds(min(times))}, most {_milliseconds(max(times))}, {arguments.steps} steps)"
    )


def main(arguments: Sequence[str]) -> None:
    """Reads the flags and measures."""
    command = parse(Arguments, arguments, prog="python -m train.benchmark").command
    if isinstance(command, Layers):
        measure_layers(command)
    else:
        with native_convolutions() if command.native else contextlib.nullcontext():
            measure_model(command)


if __name__ == "__main__":
    program(main)
