"""Every file of configs/: what it says of itself, whether it can run, and the recipes' numbers."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

import attnjax
from tests.kinds import numbers, one_of_each_kind, without_numbers
from train.config import Config, GGAMConfig
from train.config.ablation import Ablation
from train.config.flags import read_config_file, read_from_file
from train.tasks import task_of
from train.tasks.recipe import Run

FOLDER = Path(__file__).resolve().parent.parent / "configs"
ABLATIONS = sorted((FOLDER / "ablations").glob("*.py"))
CONFIGS = sorted(set(FOLDER.rglob("*.py")) - set(ABLATIONS))
EXAMPLES = {
    "digits": (10, 1437),
    "canvas_digits": (10, 5748),
    "folder:images": (3, 100),
    "coco:data/coco": (80, 118_287),
    "coco:data/scenes": (6, 800),
    "tfds:imagenet2012": (1000, 1_281_167),
    "tfds:fashion_mnist": (10, 60_000),
    "tfds:cifar10": (10, 50_000),
    "tfds:cifar100": (100, 50_000),
    "tfds:caltech_birds2011": (200, 5994),
    "tfds:cars196": (196, 8144),
    "tfds:fgvc_aircraft": (100, 6667),
}
"""Classes and training images of each source."""
SMALL_AND_GRAY = {"digits": 8, "canvas_digits": 64, "tfds:fashion_mnist": 28}
"""Sides of images of one channel."""
PUBLISHED_ON = {
    "tfds:imagenet2012": "ImageNet-1K",
    "tfds:cifar10": "CIFAR-10",
    "tfds:cifar100": "CIFAR-100",
    "tfds:caltech_birds2011": "CUB-200-2011",
    "tfds:cars196": "Stanford Cars",
    "tfds:fgvc_aircraft": "FGVC-Aircraft",
}

every_config = pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)


@functools.cache
def load(path: Path) -> Config:
    return read_config_file(str(path))


def named(name: str) -> Config:
    return read_config_file(name)


def run_of(config: Config) -> Run:
    classes, examples = EXAMPLES[config.data.source]
    if config.model.is_detector:
        return Run(config, tuple(map(str, range(classes))), task_of(config).image_shape(config), examples)
    side = config.data.image_size or SMALL_AND_GRAY.get(config.data.source, 32)
    channels = 1 if config.data.source in SMALL_AND_GRAY else 3
    return Run(config, tuple(map(str, range(classes))), (side, side, channels), examples)


def rates(name: str, *steps: int) -> list[float]:
    return [float(run_of(named(name)).schedule()(step)) for step in steps]


@every_config
def test_it_tells_its_command_time_and_result(path: Path):
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    config = load(path)
    folder = re.search(rf"^    python -m train {path.stem} .*--workdir runs/(\w+)$", text, re.M)
    assert folder
    assert path.stem.startswith("folder_") or folder[1] == path.stem
    assert re.search(r"^Time: .*\d", text, re.M)
    assert re.search(r"^Result(, [^:]+)?: \S", text, re.M)
    if "steps of" in text:
        steps = config.steps(EXAMPLES[config.data.source][1])
        assert f"Time: {steps:,} steps of {config.data.batch_size} images" in text
        if path.stem.startswith(("cifar", "birds", "cars", "aircraft")):
            assert f" images, {steps * config.data.batch_size:,} in all; not measured." in text


@every_config
def test_it_tells_the_published_results_of_its_net(path: Path):
    text, config = " ".join(path.read_text().split()), load(path)
    if path.stem.endswith("_modern") or config.data.label_noise or config.model.is_detector:
        return
    for result in attnjax.model_info(config.model.name).results:
        if result.dataset == PUBLISHED_ON.get(config.data.source):
            top5 = "" if result.top5_error is None else f" / {result.top5_error:.2f}"
            figure = re.search(rf"{result.top1_error:.2f}{top5}( with [^()]+)? \(([^()]+)\)", text)
            assert figure, result
            assert result.verified == ("recalled" not in figure[2] and "quote" not in figure[2]), result


@functools.cache
def abstract_params(net: nn.Module, shape: tuple[int, int, int]) -> Any:
    """Shapes of a net's parameters, from a call with two images."""
    images = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
    return jax.eval_shape(functools.partial(net.init, train=False), jax.random.key(0), images)["params"]


def kind(path: Path) -> tuple[str, str]:
    config = load(path)
    detector = re.match("retinanet|faster_rcnn|mask_rcnn", config.model.name)
    return config.data.source, without_numbers(config.model.name) if detector is None else detector[0]


def sizes(path: Path) -> list[int]:
    return numbers(path.stem)


@pytest.mark.parametrize("path", one_of_each_kind(CONFIGS, kind, sizes, lambda path: path.stem))
def test_its_net_takes_its_images_and_its_optimizer_the_net(path: Path):
    run, task = run_of(load(path)), task_of(load(path))
    net = task.model(run)
    optimizer = run.optimizer(task.objective(run, net).frozen)
    jax.eval_shape(optimizer.init, abstract_params(net, run.image_shape))


@every_config
def test_its_net_has_the_classes_of_its_images(path: Path):
    run = run_of(load(path))
    config = run.config
    assert config.model.num_classes in (None, len(run.class_names))
    assert (config.model.num_classes == 1000) == (config.data.source == "tfds:imagenet2012")


@pytest.mark.parametrize("path", ABLATIONS, ids=lambda path: path.stem)
def test_an_ablation_tells_its_command_time_and_result(path: Path):
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    command = rf"    python -m train\.ablate {path.stem} .*--workdir runs/{path.stem}"
    assert re.search(command, text)
    assert re.search(r"^Time: .*\d", text, re.M)
    assert re.search(r"^Result(, [^:]+)?: \S", text, re.M)
    ablation = read_from_file(str(path), "ablation", Ablation)
    assert bool(ablation.published) == bool(ablation.source)
    if "Result: none yet." not in text:
        assert re.search(r"^Time: \d+ steps of \d+ images take about \d+ s of CPU time a seed", text, re.M)
        for label in ablation.variants:
            assert re.search(re.escape(f"{label}: ") + r"\d+\.\d\d \+- \d+\.\d\d %", " ".join(text.split()))


@pytest.mark.parametrize("path", ABLATIONS, ids=lambda path: path.stem)
def test_every_variant_of_an_ablation_builds_a_net_of_its_own(path: Path):
    ablation = read_from_file(str(path), "ablation", Ablation)
    assert len(ablation.variants) > 1
    seen = []
    for label in ablation.variants:
        config = ablation.config(label)
        assert config not in seen
        seen.append(config)
        run = run_of(config)
        params = abstract_params(task_of(run.config).model(run), run.image_shape)
        assert params["fc"]["bias"].shape == (len(run.class_names),)


@pytest.mark.parametrize("path", [p for p in CONFIGS if p.stem.startswith("imagenet_")], ids=lambda path: path.stem)
def test_imagenet_configs_share_images_and_batch_norm(path: Path):
    config = load(path)
    data = config.data
    size, resize = (299, 342) if "inception" in path.stem else (224, 256)
    assert (data.image_size, data.augmentation, data.flip) == (size, "random_resized_crop", True)
    assert (data.mean, data.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert config.parallel.batch_norm == 32
    assert config.model.dtype == "bfloat16"
    assert config.model.name == path.stem.removeprefix("imagenet_").removesuffix("_modern")
    if not path.stem.endswith("_modern"):
        assert (data.batch_size, data.resize) == (256, resize)
        optimizer = config.optimizer
        assert (optimizer.kind, optimizer.learning_rate, optimizer.momentum) == ("sgd", 0.1, 0.9)
        assert (optimizer.nesterov, optimizer.weight_decay, optimizer.decay_norm_and_bias) == (False, 1e-4, True)


EPOCH = 1_281_167 / 256


@pytest.mark.parametrize(
    ("pattern", "epochs"),
    [
        ("imagenet_[mrw]*", 100),
        ("imagenet_se*", 100),
        ("imagenet_cbam_*[!n].py", 100),
        ("imagenet_bam_*", 90),
        ("imagenet_epsanet*", 120),
    ],
)
def test_rates_drop_every_thirty_epochs(pattern: str, epochs: int):
    paths = sorted(FOLDER.glob(f"imagenet/{pattern}"))
    assert len(paths) >= 4
    for path in paths:
        drops = range(30, epochs, 30)
        before, after = ([round(epoch * EPOCH) + shift for epoch in drops] for shift in (-2, 2))
        expected = [0.1**power for power in range(1, len(drops) + 2)]
        assert rates(path.stem, *before, *after) == pytest.approx(expected[:-1] + expected[1:]), path.stem
        assert load(path).steps(1_281_167) == -(-epochs * 1_281_167 // 256)
        assert load(path).label_smoothing == (0.1 if "epsanet" in path.stem else 0.0)


def test_residual_attention_networks_on_imagenet_take_530_000_steps():
    for name in ("attention56", "attention92", "attentionnext56", "attentionnext92", "attentioninception56"):
        config = named(f"imagenet_{name}")
        assert config.steps(1_281_167) == 530_000
        at = (0, 199_999, 200_000, 399_999, 400_000, 499_999, 500_000, 529_999)
        assert rates(f"imagenet_{name}", *at) == pytest.approx([0.1, 0.1, 0.01, 0.01, 1e-3, 1e-3, 1e-4, 1e-4])
        assert config.data.color_jitter == 0.4


@pytest.mark.parametrize("path", [p for p in CONFIGS if re.match("cifar10(0)?_", p.stem)], ids=lambda path: path.stem)
def test_cifar_configs_take_160_000_steps_of_64(path: Path):
    config = load(path)
    assert (config.total_steps, config.data.batch_size, config.data.pad) == (160_000, 64, 4)
    assert (config.data.augmentation, config.data.flip) == ("pad_crop", True)
    assert rates(path.stem, 0, 63_999, 64_000, 95_999, 96_000, 159_999) == pytest.approx(
        [0.1] * 2 + [0.01] * 2 + [1e-3] * 2
    )
    assert (config.optimizer.nesterov, config.optimizer.weight_decay) == (True, 1e-4)
    means = {"tfds:cifar10": (0.4914, 0.4822, 0.4465), "tfds:cifar100": (0.5071, 0.4865, 0.4409)}
    assert config.data.mean == means[config.data.source]
    noise = re.search(r"_noise(\d+)$", path.stem)
    assert config.data.label_noise == (int(noise[1]) / 100 if noise else 0.0)


def test_label_noise_has_the_table_of_the_paper():
    names = {path.stem for path in CONFIGS if "noise" in path.stem}
    assert names == {f"cifar10_{net}_noise{n}" for net in ("attention92", "preact_resnet164") for n in (10, 30, 50, 70)}


@pytest.mark.parametrize("data", ["birds", "cars", "aircraft"])
def test_fine_grained_sets_have_the_recipe_of_the_released_code(data: str):
    for net in ("ggam_resnet50", "ggam_vgg16", "resnet50", "se_resnet50", "cbam_resnet50"):
        config, of_ggam = named(f"{data}_{net}"), net.startswith("ggam_")
        epochs = 300 if of_ggam else 100
        assert (config.data.image_size, config.data.resize, config.data.augmentation) == (448, 600, "resize_crop")
        assert (config.data.batch_size, config.parallel.batch_norm, config.total_epochs) == (32, 8, epochs)
        assert (config.data.mean, config.data.std) == ((0.5,), (0.5,))
        backbone = net.removeprefix("ggam_")
        assert (config.model.name, config.model.weights) == (net, f"{backbone}.safetensors")
        optimizer = config.optimizer
        inside = optimizer.learning_rate * optimizer.scaled_by
        slow, fast = sorted((inside, optimizer.learning_rate))
        assert (slow, fast) == pytest.approx((0.01, 0.1))
        assert optimizer.scaled_module == ("backbone" if of_ggam else "fc")
        assert (inside == slow) == of_ggam
        script = GGAMConfig(1.0, "softmax", "forward", "prediction", "D", True, "sum", "batch")
        assert config.ggam == (script if of_ggam else GGAMConfig())
        total = config.steps(run_of(config).num_examples)
        peak = optimizer.learning_rate
        assert rates(f"{data}_{net}", 0, total // 2, total) == pytest.approx([peak, peak / 2, 0], rel=1e-3, abs=1e-9)


def test_the_modern_recipe():
    config = named("imagenet_cbam_resnet50_modern")
    assert (config.optimizer.kind, config.data.batch_size, config.total_epochs) == ("lamb", 2048, 300)
    assert config.ema_decay is not None
    for setting in ("rand_augment_layers", "mixup", "cutmix"):
        assert getattr(config.data, setting) > 0
    total = config.steps(1_281_167)
    warmup = round(total * 5 / 300)
    at = [0, warmup, (warmup + total) // 2, total]
    assert rates("imagenet_cbam_resnet50_modern", *at) == pytest.approx([0, 5e-3, 2.5e-3, 0], rel=1e-3, abs=1e-9)
