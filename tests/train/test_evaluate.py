"""Figures over several multicrop of each image, by hand: crops, mirror images, sizes, masks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import linen as nn
from PIL import Image

import attnjax
from attnjax.attention import ChannelSpatialAttention
from attnjax.losses import CrossEntropy, ggam_loss
from attnjax.models import BasicBlock, GGAMNet, ResNet
from attnjax.training import Layout, Normalize, make_eval_step
from tests.train.support import Arrays, replace, small
from train.config import Config
from train.config.errors import UserError
from train.data import Reader, evaluation_batches
from train.evaluate import main
from train.runs.evaluation import Evaluator
from train.tasks.classification import CLASSIFICATION, Evaluation
from train.tasks.multicrop import Multicrop, MulticropLoss
from train.tasks.recipe import Run

CLASSES = 7
CONFIG: Config = replace(small(), {"data.batch_size": 8, "data.image_size": 8, "data.resize": 10})


class Net(nn.Module):
    """A net that tells the places of an image apart."""

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        if x.shape[1] > 16:
            raise ValueError("images must have at most 16x16 pixels\nbecause of this test")
        x = nn.Conv(6, (3, 3), (2, 2), "VALID", name="conv")(x)
        return nn.Dense(CLASSES, name="fc")(nn.relu(x)[:, :3, :3].reshape(len(x), -1))


class Photos(Arrays):
    """Photos of different sizes."""

    def __init__(self, count: int) -> None:
        rng = np.random.default_rng(0)
        shapes = [(12, 17), (23, 14), (11, 11)]
        images = [rng.integers(0, 256, (*shapes[i % 3], 1), np.uint8) for i in range(count)]
        super().__init__(images, rng.integers(0, CLASSES, count))


PHOTOS = Photos(11)


@pytest.fixture(scope="module")
def variables() -> Any:
    return Net().init(jax.random.key(0), np.zeros((1, 8, 8, 1), np.float32), train=False)


def reader_of(config: Config) -> Reader:
    return Reader(PHOTOS, config.data, (8, 8, 1))


def run_of(config: Config) -> Run:
    return Run(config, tuple(map(str, range(CLASSES))), (8, 8, 1), 1)


def evaluate(
    variables: Any,
    multicrop: Multicrop | None,
    config: Config = CONFIG,
    devices: int = 8,
    net: Any = None,
    loss: Any = None,
) -> Evaluation:
    layout, reader, net = Layout.create(jax.devices()[:devices]), reader_of(config), net or Net()
    preprocess, batches = Normalize(config.data.mean, config.data.std), evaluation_batches
    step = make_eval_step(net, loss or CrossEntropy(), preprocess=preprocess)
    if multicrop is not None:
        step, batches = make_eval_step(net, MulticropLoss(preprocess)), multicrop.batches
    evaluator = Evaluator(CLASSIFICATION, reader, step, partial(batches, reader), layout)
    return evaluator(run_of(config), layout.put(variables))


def resized(image: np.ndarray, shorter: int) -> np.ndarray:
    height, width = image.shape[:2]
    new = (shorter, int(width * shorter / height)) if height < width else (int(height * shorter / width), shorter)
    return np.asarray(Image.fromarray(image[..., 0]).resize(new[::-1], Image.Resampling.BILINEAR))[..., None]


def centre(image: np.ndarray, size: int) -> np.ndarray:
    top, left = round((image.shape[0] - size) / 2), round((image.shape[1] - size) / 2)
    return image[top : top + size, left : left + size]


def ten_by_hand(image: np.ndarray, size: int) -> list[np.ndarray]:
    five = [image[:size, :size], image[:size, -size:], image[-size:, :size], image[-size:, -size:], centre(image, size)]
    return [*five, *(crop[:, ::-1] for crop in five)]


def by_hand(variables: Any, crops: Callable[[np.ndarray], list[np.ndarray]]) -> dict[str, float]:
    """Loss, accuracy and top-5 accuracy of the mean of the probabilities, one image and one crop at a time."""
    rows = []
    for image in PHOTOS.images:
        answers = []
        for crop in crops(image):
            scaled = (crop[None].astype(np.float32) / 255 - CONFIG.data.mean[0]) / CONFIG.data.std[0]
            logits = np.asarray(Net().apply(variables, scaled.astype(np.float32), train=False))[0].astype(np.float64)
            answers.append(np.exp(logits) / np.exp(logits).sum())
        rows.append(np.mean(answers, 0))
    own = np.asarray([row[label] for row, label in zip(rows, PHOTOS.labels, strict=True)])
    ranks = np.asarray([(row > one).sum() for row, one in zip(rows, own, strict=True)])
    return {"loss": float(-np.log(own).mean()), "accuracy": (ranks < 1).mean(), "top5_accuracy": (ranks < 5).mean()}


def assert_figures(result: Evaluation, expected: dict[str, float]) -> None:
    for name, value in expected.items():
        assert getattr(result, name) == pytest.approx(value, rel=1e-5), name
    assert result.count == len(PHOTOS)
    assert result.confusion.sum() == len(PHOTOS)
    assert result.confusion.sum(1).tolist() == np.bincount(PHOTOS.labels, minlength=CLASSES).tolist()


def test_one_view_by_hand(variables: Any):
    expected = by_hand(variables, lambda image: [centre(resized(image, 10), 8)])
    assert 0 < expected["top5_accuracy"] < 1
    assert_figures(evaluate(variables, None), expected)
    assert_figures(evaluate(variables, Multicrop("center", ((8, 10),))), expected)


@pytest.mark.parametrize("devices", [1, 8])
def test_ten_crops_are_the_mean_over_crops_made_by_hand(variables: Any, devices: int):
    expected = by_hand(variables, lambda image: ten_by_hand(resized(image, 10), 8))
    assert expected["loss"] != pytest.approx(evaluate(variables, None).loss, rel=1e-3)
    assert_figures(evaluate(variables, Multicrop("ten", ((8, 10),)), devices=devices), expected)


def test_several_sizes_are_the_mean_over_all_of_them(variables: Any):
    scales = ((8, 10), (9, 13))
    centres = by_hand(variables, lambda image: [centre(resized(image, side), size) for size, side in scales])
    assert_figures(evaluate(variables, Multicrop("center", scales)), centres)
    crops = by_hand(
        variables, lambda image: [crop for size, side in scales for crop in ten_by_hand(resized(image, side), size)]
    )
    assert_figures(evaluate(variables, Multicrop("ten", scales)), crops)


def test_ten_crops_of_images_that_are_squeezed(variables: Any):
    config = replace(CONFIG, {"data.augmentation": "resize_crop"})

    def squeezed(image: np.ndarray) -> np.ndarray:
        return np.asarray(Image.fromarray(image[..., 0]).resize((10, 10), Image.Resampling.BILINEAR))[..., None]

    expected = by_hand(variables, lambda image: ten_by_hand(squeezed(image), 8))
    assert_figures(evaluate(variables, Multicrop("ten", ((8, 10),)), config), expected)


@pytest.mark.parametrize("multicrop", [None, Multicrop("ten", ((8, 10), (9, 12)))])
def test_every_image_counts_once_with_any_batch_and_number_of_devices(variables: Any, multicrop: Multicrop | None):
    results = [
        evaluate(variables, multicrop, replace(CONFIG, {"data.batch_size": batch}), devices)
        for batch, devices in ((1, 1), (8, 8), (16, 4), (11, 1))
    ]
    for result in results[1:]:
        assert dataclasses.replace(result, loss=0.0, confusion=0) == dataclasses.replace(
            results[0], loss=0.0, confusion=0
        )
        assert result.loss == pytest.approx(results[0].loss, rel=1e-6)
        assert (result.confusion == results[0].confusion).all()


@pytest.mark.parametrize(
    ("sizes", "sides", "expected"),
    [
        ((), (), ((8, 10),)),
        ((), (12,), ((8, 12),)),
        ((12,), (), ((12, 15),)),
        ((8, 16), (), ((8, 10), (16, 20))),
        ((8, 16), (20,), ((8, 20), (16, 20))),
        ((8,), (10, 12, 14), ((8, 10), (8, 12), (8, 14))),
        ((8, 9), (10, 12), ((8, 10), (9, 12))),
    ],
)
def test_sizes_and_resize_go_together(
    sizes: tuple[int, ...], sides: tuple[int, ...], expected: tuple[tuple[int, int], ...]
):
    assert Multicrop.of(reader_of(CONFIG), "center", sizes, sides).scales == expected


def test_images_of_their_own_size_are_not_enlarged_before_the_crop():
    config = replace(CONFIG, {"data.resize": None, "data.image_size": None})
    assert Multicrop.of(reader_of(config), "ten", (), ()).scales == ((8, 8),)
    tall = dataclasses.replace(reader_of(config), image_shape=(8, 9, 1))
    with pytest.raises(UserError, match="the run's images are 8x9: give the side of square crops as --sizes"):
        Multicrop.of(tall, "ten", (), ())


@pytest.mark.parametrize(("sizes", "sides"), [((8, 9), (10, 11, 12)), ((8, 9, 10), (12, 13))])
def test_sizes_and_resize_that_do_not_go_together(sizes: tuple[int, ...], sides: tuple[int, ...]):
    message = f"--resize takes one value, or one for each of {len(sizes)} --sizes: got {len(sides)}"
    with pytest.raises(UserError, match=message):
        Multicrop.of(reader_of(CONFIG), "center", sizes, sides)


def test_a_size_that_the_net_refuses_is_named(variables: Any):
    multicrop = Multicrop.of(reader_of(CONFIG), "center", (8, 17), ())
    message = "the net does not take images of 17x17 pixels: images must have at most 16x16 pixels$"
    with pytest.raises(UserError, match=message):
        multicrop.check(Net(), variables, reader_of(CONFIG))


def test_the_program_averages_over_multicrop(trained: tuple[Path, Evaluation], capsys: pytest.CaptureFixture[str]):
    def said(*flags: str) -> dict[str, str]:
        capsys.readouterr()
        main(["--workdir", str(trained[0]), *flags])
        return dict(line.split("=") for line in capsys.readouterr().out.splitlines())

    plain = said()
    assert plain["test_accuracy"] == f"{trained[1].accuracy:.4f}"
    assert plain["test_top5_accuracy"] == f"{trained[1].top5_accuracy:.4f}"
    assert trained[1].accuracy < trained[1].top5_accuracy
    assert said("--sizes", "8", "--resize", "8") == plain
    multicrop = said("--crops", "ten", "--sizes", "8", "10", "--resize", "9", "12")
    assert multicrop["step 6: test_loss"].endswith(" on 360 images")
    assert multicrop != plain


def test_the_program_refuses_a_crop_larger_than_the_image(trained: tuple[Path, Evaluation], fails: Callable[..., str]):
    message = fails(main, "--workdir", trained[0], "--sizes", 10, "--resize", 9)
    assert "resize=9 must be from image_size (10) to 8192" in message


def test_guidance_is_told_of_nets_that_have_it_over_all_images_of_one_view():
    backbone = partial(ResNet, (1,), BasicBlock, widths=(4,), stem="cifar", stem_width=4)
    net = GGAMNet(backbone, partial(ChannelSpatialAttention, reduction=2), CLASSES, hidden=4)
    reader = reader_of(CONFIG)
    weights = attnjax.init(net, jax.random.key(0), (1, 8, 8, 1))
    objective = CLASSIFICATION.objective(run_of(CONFIG), net)
    found = evaluate(weights, None, devices=1, net=net, loss=objective.evaluation_loss)
    batches = [{name: v[batch["mask"]] for name, v in batch.items()} for batch in evaluation_batches(reader, (0, 1))]
    images, labels = (np.concatenate([batch[name] for batch in batches]) for name in ("image", "label"))
    assert len(images) == found.count == len(PHOTOS) < 16  # the last batch is padded
    _, terms = ggam_loss(net, weights, Normalize(CONFIG.data.mean, CONFIG.data.std)(images), labels, train=False)
    assert found.kl == pytest.approx(float(terms.guidance.mean()), rel=1e-4)
    assert list(found.figures()) == ["loss", "accuracy", "top5_accuracy", "kl", "correlation"]
    multicrop = Multicrop.of(reader, "ten", (), ())
    assert "kl" not in evaluate(weights, multicrop, devices=1, net=net).figures()
    plain = net.clone(attention=None)
    assert isinstance(CLASSIFICATION.objective(run_of(CONFIG), plain).evaluation_loss, CrossEntropy)
