"""Images with objects in batches: padded sizes, order, augmentation, masks, objects beyond the padding."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from train.config import Config, DataConfig, DetectionConfig, ModelConfig
from train.config.errors import UserError
from train.data.coco import read_coco
from train.data.images import UnreadableImageError
from train.data.object_pipeline import ObjectReader, evaluation_objects, padded_batch, training_objects
from train.data.objects import ObjectImages

SIZES = [(48, 64), (64, 48), (30, 60), (64, 64), (96, 64)]
"""Height and width of five images, the second and the last upright."""
BOX = [8, 4, 16, 20]
"""x, y, w, h of the object of each image."""


def config(**detection: Any) -> Config:
    data = DataConfig("coco:x", batch_size=2, augmentation="none", flip=False, num_threads=1)
    settings = DetectionConfig(**{"short_side": 32, "long_side": 64, "max_objects": 3, "mask_stride": 1} | detection)
    return Config(model=ModelConfig("mask_rcnn_resnet18"), data=data, detection=settings, total_steps=1)


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> ObjectImages:
    """Images that are white where their object is, and black elsewhere."""
    folder, content = tmp_path_factory.mktemp("objects"), {"images": [], "annotations": []}
    x, y, w, h = BOX
    for number, (height, width) in enumerate(SIZES, 1):
        pixels = np.zeros((height, width, 3), np.uint8)
        pixels[y : y + h, x : x + w] = 255
        Image.fromarray(pixels).save(folder / f"{number}.png")
        content["images"].append({"id": number, "file_name": f"{number}.png", "height": height, "width": width})
        corners = [x, y, x + w, y, x + w, y + h, x, y + h]
        entry = {"id": number, "image_id": number, "category_id": 1, "bbox": BOX, "segmentation": [corners]}
        content["annotations"].append(entry)
    content["categories"] = [{"id": 1, "name": "white"}]
    (folder / "annotations.json").write_text(json.dumps(content))
    return read_coco(str(folder / "annotations.json"), str(folder), masks=True)


def test_batches_have_one_padded_size_and_every_image_once(split: ObjectImages):
    batches = list(evaluation_objects(ObjectReader(split, config(), masks=True)))
    assert [batch["image"].shape for batch in batches] == [(2, 32, 64, 3)] * 2 + [(2, 64, 32, 3)]
    seen = [index for batch in batches for index in batch["index"][batch["mask"]]]
    assert seen == [0, 2, 3, 1, 4]
    assert [batch["mask"].tolist() for batch in batches] == [[True, True], [True, False], [True, True]]


def test_boxes_and_masks_lie_where_the_object_lies(split: ObjectImages):
    for batch in evaluation_objects(ObjectReader(split, config(), masks=True)):
        for row in np.flatnonzero(batch["mask"]):
            height, width = batch["size"][row]
            original = batch["original_size"][row]
            assert tuple(original) == SIZES[batch["index"][row]]
            scale = np.array([width / original[1], height / original[0]])
            x, y, w, h = BOX
            np.testing.assert_allclose(batch["boxes"][row, 0], [*scale * (x, y), *scale * (x + w, y + h)], rtol=1e-6)
            assert batch["present"][row].tolist() == [True, False, False]
            bright = batch["image"][row, ..., 0] > 127
            assert not bright[height:].any()
            assert (bright != batch["masks"][row, 0]).mean() < 0.02
            assert not batch["masks"][row, 1:].any()


def test_flipped_images_have_flipped_boxes_and_masks(split: ObjectImages):
    flips = dataclasses.replace(config(), data=dataclasses.replace(config().data, flip=True))
    reader, left, right = ObjectReader(split, flips, masks=True), 0, 0
    for seed in range(8):
        example = reader.example(0, (32, 64), np.random.default_rng(seed))
        x0, y0, x1, y1 = example["boxes"][0].round().astype(int)
        assert example["image"][y0 + 2 : y1 - 2, x0 + 2 : x1 - 2].min() > 127
        assert example["masks"][0, y0 + 1 : y1 - 1, x0 + 1 : x1 - 1].all()
        left, right = left + (x0 < 10), right + (x0 >= 10)
    assert left
    assert right


def test_masks_are_kept_at_a_lower_resolution(split: ObjectImages):
    full, reduced = (
        ObjectReader(split, config(mask_stride=stride), masks=True).example(0, (32, 64), None)["masks"][0]
        for stride in (1, 4)
    )
    shares = full.reshape(8, 4, 16, 4).mean((1, 3))
    np.testing.assert_array_equal(reduced, shares >= 0.5)


def test_each_image_comes_once_an_epoch_of_its_size_in_an_order_of_the_seed(split: ObjectImages):
    def sizes(seed: int, start: int = 0, process: tuple[int, int] = (0, 1)) -> list[Any]:
        reader = ObjectReader(split, dataclasses.replace(config(), seed=seed), masks=False)
        batches = training_objects(reader, process)
        batches.set_state({"next_index": start})
        return [next(batches)["original_size"].tolist() for _ in range(15 - start)]

    drawn = [size for batch in sizes(0) for size in batch]
    assert {size: drawn.count(list(size)) for size in SIZES} == dict.fromkeys(SIZES, 6)
    assert sizes(1) != sizes(0) == sizes(0)
    assert sizes(0, start=4) == sizes(0)[4:]
    halves = [sizes(0, process=(index, 2)) for index in range(2)]
    assert [a + b for a, b in zip(*halves, strict=True)] == sizes(0)


def test_scales_are_drawn_from_the_smallest_to_the_full(split: ObjectImages):
    reader = ObjectReader(split, config(min_scale=0.5), masks=False)
    sides = {reader.example(3, (32, 64), np.random.default_rng(seed))["size"][0] for seed in range(30)}
    assert min(sides) >= 16
    assert max(sides) <= 32
    assert len(sides) > 8


def test_of_more_objects_than_the_padding_the_largest_are_kept(split: ObjectImages):
    image = split.images[0]
    boxes = np.array([[0, 0, 4, 4], [0, 0, 40, 40], [0, 0, 2, 2], [0, 0, 30, 30], [0, 0, 20, 20]], np.float32)
    crowded = dataclasses.replace(image, boxes=boxes, labels=np.arange(5, dtype=np.int32))
    reader = ObjectReader(dataclasses.replace(split, images=(crowded,)), config(), masks=False)
    assert reader.example(0, (32, 64), None)["label"].tolist() == [1, 3, 4]


def test_an_image_that_is_no_image_or_of_another_size_is_named(split: ObjectImages, tmp_path: Path):
    (tmp_path / "a.png").write_text("no image")
    Image.new("RGB", (7, 5)).save(tmp_path / "b.png")
    for name, message in (("a.png", "cannot read image"), ("b.png", "has 5x7 pixels, but 48x64 in")):
        image = dataclasses.replace(split.images[0], path=str(tmp_path / name))
        broken = dataclasses.replace(split, images=(image, *split.images[1:]))
        with pytest.raises(UnreadableImageError, match=message):
            list(evaluation_objects(ObjectReader(broken, config(), masks=False)))
        skips = dataclasses.replace(config(), data=dataclasses.replace(config().data, skip_unreadable=True))
        reader = ObjectReader(broken, skips, masks=False)
        seen = [index for batch in evaluation_objects(reader) for index in batch["index"][batch["mask"]]]
        assert seen == [2, 3, 1, 4]
        assert reader.unreadable == {str(tmp_path / name)}
        batches = training_objects(reader)
        assert all([48, 64] not in next(batches)["original_size"].tolist() for _ in range(6))
        alone = ObjectReader(dataclasses.replace(split, images=(image,)), skips, masks=False)
        with pytest.raises(UserError, match="none of 1 images"):
            next(training_objects(alone))


def test_pictures_are_prepared_as_test_images_are(split: ObjectImages):
    reader = ObjectReader(split, config(), masks=False)
    example = reader.example(2, (32, 64), None)
    images, sizes, original = padded_batch(config(), [split.read(2)], (32, 64), 2)
    np.testing.assert_array_equal(images[0], example["image"])
    np.testing.assert_array_equal([sizes[0], original[0]], [example["size"], example["original_size"]])


def test_a_damaged_image_alone_of_its_size_is_masked(split: ObjectImages, tmp_path: Path):
    (tmp_path / "a.png").write_text("no image")
    portrait = dataclasses.replace(split.images[1], path=str(tmp_path / "a.png"))
    broken = dataclasses.replace(split, images=(split.images[0], split.images[2], portrait))
    skips = dataclasses.replace(config(), data=dataclasses.replace(config().data, skip_unreadable=True))
    batches = training_objects(ObjectReader(broken, skips, masks=False))
    drawn = [next(batches) for _ in range(6)]
    masks = {batch["image"].shape[1:3]: batch["mask"].tolist() for batch in drawn}
    assert masks == {(32, 64): [True, True], (64, 32): [False, False]}
    assert not any(batch["present"][~batch["mask"]].any() for batch in drawn)
