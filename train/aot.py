"""python -m train.aot CONFIG [--topology v5e:16x16] [--batch_per_chip 64] [--find_batch] [--SETTING VALUE ...]"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
from collections.abc import Sequence
from typing import Annotated, Any

import tyro

from train.config import Config, flatten
from train.config.atomic import replacing
from train.config.flags import parse, program, read_config_file, with_duration_of
from train.pods.batch import MOST_IMAGES, most_images
from train.pods.compile import COMPILER, GIB, Compiled, NotEnoughMemoryError, Pod
from train.runs.provenance import installed, processor
from train.tasks import task_of

_DEFAULT_CONFIG = "imagenet_cbam_resnet50"


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Compiles the training step for a TPU pod on any machine, and reports its memory and an upper bound of its speed.

    CONFIG is a Python file that defines `config`, given by its path or, below configs/, by its name alone. The
    file is executed: use only files you trust.
    """

    config: Annotated[Config, tyro.conf.arg(name=""), tyro.conf.FlagConversionOff]
    topology: str = "v5e:16x16"
    """Chip and torus, such as v5e:4x4, v5e:16x16, v6e:16x16, v4:4x4x8 or v5p:4x4x8."""
    batch_per_chip: int | None = None
    """Images per chip and step; None divides data.batch_size among the chips."""
    find_batch: tyro.conf.FlagCreatePairsOff[bool] = False
    """Also find the largest batch per chip, from the compiler's memory plan."""
    json: str | None = None
    """File for all results as JSON; results of exactly the same step in it are reused."""


def describe(pod: Pod, config: Config, step: Compiled) -> list[str]:
    """The lines of the report on a compiled step."""
    chips, chip, images = len(pod.devices), pod.chip, step.images
    used = {name: size / GIB for name, size in step.memory.items()}
    height, width, _ = task_of(config).image_shape(config)
    over = {"global": "the whole batch", "device": "each device"}
    norm = over.get(str(config.parallel.batch_norm), f"{config.parallel.batch_norm} images")
    times = step.times(chip)
    return [
        f"step         {config.model.name}, {config.model.dtype}, {height}x{width} pixels, batch norm over {norm}",
        f"topology     {pod.topology}: {chips} chips, processes: {pod.num_processes}",
        f"batch        {images * chips} images, {images} a chip; compiled in {step.seconds:.0f} s",
        f"memory       {step.needed / GIB:.2f} of {chip.memory:.2f} GiB a chip, "
        f"{'fits' if step.needed <= chip.memory_bytes else 'does not fit'}: arguments {used['arguments']:.2f}, "
        f"outputs {used['outputs']:.2f} ({used['reused']:.2f} reusing arguments), "
        f"temporaries {used['temporaries']:.2f}, program {used['program']:.2f}",
        *(
            f"collectives  {kind}: {traffic.count} a step, of {traffic.bytes / 1e6:.1f} MB in all"
            for kind, traffic in step.traffic.items()
        ),
        f"operations   {step.flops / 1e9:.4g} G a chip, {step.flops * chips / 1e12:.4g} T in all, "
        f"{step.flops / images / 1e9:.3g} G an image",
        f"moved        {step.moved / 1e9:.3g} GB from and to HBM a chip, {step.moved / images / 1e6:.3g} MB an image; "
        f"XLA counts {step.accessed / images / 1e6:.3g} MB, what stays on the chip too, loops once",
        *([f"loops        of unknown length: {step.unknown_loops}, counted once each"] * bool(step.unknown_loops)),
        f"roofline     at most {images * chips / max(times.values()):.0f} images/s, bound by "
        f"{max(times, key=lambda name: times[name])}: "
        + ", ".join(f"{name} {1000 * seconds:.3g} ms" for name, seconds in times.items()),
        f"             taking {chip.flops / 1e12:.0f} Tflop/s, {chip.memory_bandwidth / 1e9:.0f} GB/s of HBM, "
        f"{chip.network_bandwidth / 1e9:.0f} GB/s over all links of a chip in rings without latency, all three at once",
    ]


def read_record(path: str, key: str) -> dict[str, Any] | None:
    """The record of the step with this key; None if the file has none."""
    with contextlib.suppress(FileNotFoundError), open(path, encoding="utf-8") as file:
        stored = json.load(file)
        return stored if stored.get("key") == key else None
    return None


def record(pod: Pod, config: Config, key: str, step: Compiled | None, most: int | None) -> dict[str, Any]:
    """All results for JSON: of the step, if it fits, and the largest batch per chip, if searched for."""
    figures = None
    if step is not None:
        times = step.times(pod.chip)
        speed = step.images * len(pod.devices) / max(times.values())
        figures = dataclasses.asdict(step) | {"needed": step.needed, "times": times, "images_per_second": speed}
    return {
        "key": key,
        "config": flatten(config),
        "topology": pod.topology,
        "chips": len(pod.devices),
        "processes": pod.num_processes,
        "memory_limit": pod.chip.memory_bytes,
        "step": figures,
        "most_images": most,
        "versions": installed(("attnjax", *COMPILER)),
        "machine": processor(),
        "date": datetime.date.today().isoformat(),
    }


def main(arguments: Sequence[str]) -> None:
    """Reads the flags, compiles and reports."""
    path, flags = _DEFAULT_CONFIG, list(arguments)
    if flags and not flags[0].startswith("-"):
        path = flags.pop(0)
    default = Arguments(with_duration_of(read_config_file(path), flags))
    parsed = parse(Arguments, flags, default=default, prog="python -m train.aot CONFIG", switches=True)
    pod, config = Pod.of(parsed.topology), parsed.config
    if parsed.batch_per_chip is not None:
        config = pod.with_images(config, parsed.batch_per_chip)

    step, most, key = None, None, ""
    if parsed.json is not None:
        key = pod.key(config)
        if stored := read_record(parsed.json, key):
            step, most = stored["step"] and Compiled.of_record(stored["step"]), stored.get("most_images")

    def save() -> None:
        if parsed.json is not None:
            with replacing(parsed.json) as written, open(written, "w", encoding="utf-8") as file:
                json.dump(record(pod, config, key, step, most), file, indent=2)

    if step is None and not (parsed.find_batch and most):
        try:
            step = pod.compile(config)
            save()
        except NotEnoughMemoryError as error:
            if not parsed.find_batch:
                raise
            print(f"memory       {error}", flush=True)
            most = most_images(pod, config, error.needed, None)
            save()
    if step is not None:
        print(*describe(pod, config, step), sep="\n", flush=True)
        if parsed.find_batch and most is None:
            most = most_images(pod, config, pod.planned_bytes(config), step.needed)
            save()
    if parsed.find_batch:
        at_most = " a chip, the most that a step may have" if most == MOST_IMAGES // len(pod.devices) else " a chip"
        print(f"largest      {most} images{at_most}")


if __name__ == "__main__":
    program(main)
