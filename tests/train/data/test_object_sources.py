"""Folders of images with objects: the layouts that are found, Pascal VOC's files, and the scenes that are drawn."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from train.config import DataConfig
from train.config.errors import UserError
from train.data.object_sources import open_objects
from train.data.scenes import CLASSES, SIDE, scenes, write_scenes
from train.data.voc import DIFFICULT, read_voc


def opened(folder: Path, masks: bool = False, kind: str = "coco", **settings: Any) -> Any:
    return open_objects(DataConfig(f"{kind}:{folder}", augmentation="none", **settings), masks=masks)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six and three scenes."""
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(str(folder), {"train": 6, "val": 3})
    return folder


@pytest.fixture
def copy(drawn: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(drawn, tmp_path / "copy"))


def test_scenes_have_the_boxes_and_masks_that_were_drawn(drawn: Path):
    dataset = opened(drawn, masks=True)
    assert dataset.class_names == CLASSES
    for split, part, count in ((dataset.train, "train", 6), (dataset.test, "val", 3)):
        draw = scenes(part)
        assert len(split) == count
        assert not split.left_out
        for index, image in enumerate(split.images):
            scene, masks = draw(index), split.read_masks(image)
            np.testing.assert_array_equal(split.read(index), scene.image)
            np.testing.assert_array_equal(masks, scene.masks)
            assert image.labels.tolist() == scene.labels.tolist()
            for box, mask in zip(image.boxes.astype(int), masks, strict=True):
                inside = np.zeros((SIDE, SIDE), bool)
                inside[box[1] : box[3], box[0] : box[2]] = True
                assert not mask[~inside].any()
                assert mask[box[1]].any()
                assert mask[box[3] - 1].any()
                assert mask[:, box[0]].any()
                assert mask[:, box[2] - 1].any()


@pytest.mark.parametrize(
    ("annotations", "images"),
    [
        ("annotations/{}.json", "{}"),
        ("{}/_annotations.coco.json", "{}"),
        ("{}.json", "images"),
        ("{}.json", "."),
    ],
)
def test_other_layouts_are_found(drawn: Path, tmp_path: Path, annotations: str, images: str):
    for part in ("train", "val"):
        target, pictures = tmp_path / annotations.format(part), tmp_path / images.format(part)
        for folder in (target.parent, pictures):
            folder.mkdir(parents=True, exist_ok=True)
        content = json.loads((drawn / "annotations" / f"instances_{part}.json").read_text())
        for image in content["images"]:
            old = drawn / "images" / part / image["file_name"]
            image["file_name"] = f"{part}_{image['file_name']}"
            shutil.copy(old, pictures / image["file_name"])
        target.write_text(json.dumps(content))
    dataset = opened(tmp_path)
    assert (len(dataset.train), len(dataset.test)) == (6, 3)
    assert dataset.test.read(0).shape == (SIDE, SIDE, 3)


def test_a_single_file_is_divided_into_the_same_parts_each_time(drawn: Path, tmp_path: Path):
    shutil.copytree(drawn / "images" / "train", tmp_path / "images")
    shutil.copy(drawn / "annotations" / "instances_train.json", tmp_path / "annotations.json")
    first, second = (opened(tmp_path, test_fraction=1 / 3) for _ in range(2))
    parts = [{image.image_id for image in split.images} for split in (first.train, first.test)]
    assert [len(part) for part in parts] == [4, 2]
    assert parts[0] | parts[1] == set(range(1, 7))
    assert {image.image_id for image in second.test.images} == parts[1]
    assert {image["id"] for image in first.test.ground_truth["images"]} == parts[1]
    assert {entry["image_id"] for entry in first.test.ground_truth["annotations"]} <= parts[1]
    with pytest.raises(UserError, match="leaves none for training or test"):
        opened(tmp_path, test_fraction=0.01)


def test_fewer_training_images_are_some_of_them(drawn: Path):
    kept = {image.image_id for image in opened(drawn, train_images=4).train.images}
    assert len(kept) == 4
    with pytest.raises(UserError, match="more than the 6 training images"):
        opened(drawn, train_images=7)


def test_what_is_missing_or_differs_is_one_line(copy: Path, tmp_path: Path):
    with pytest.raises(UserError, match="must be coco:PATH or voc:PATH for a detector"):
        open_objects(DataConfig("digits"), masks=False)
    with pytest.raises(UserError, match="there is no folder"):
        opened(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no annotations of annotations\.json, or train and val"):
        opened(tmp_path / "empty")
    val = copy / "annotations" / "instances_val.json"
    content = json.loads(val.read_text())
    content["categories"][0]["name"] = "nought"
    val.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"differ in their categories: \['0', 'nought'\]"):
        opened(copy)
    val.unlink()
    with pytest.raises(UserError, match="no annotations of val"):
        opened(copy)


OBJECT = "<object><name>{}</name><difficult>{}</difficult><bndbox>{}</bndbox></object>"
CORNERS = "<xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax>"


def write_year(folder: Path, image_sets: dict[str, list[str]], objects: str) -> None:
    for below in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / below).mkdir(parents=True)
    for image_set, names in image_sets.items():
        (folder / "ImageSets" / "Main" / f"{image_set}.txt").write_text("".join(f"{name}\n" for name in names))
        for name in names:
            Image.new("RGB", (20, 10)).save(folder / "JPEGImages" / f"{name}.jpg")
            size = "<size><width>20</width><height>10</height><depth>3</depth></size>"
            text = f"<annotation><filename>{name}.jpg</filename>{size}{objects}</annotation>"
            (folder / "Annotations" / f"{name}.xml").write_text(text)


def test_voc_has_pixels_from_one_and_leaves_out_difficult_objects(tmp_path: Path):
    dog, cat = (
        OBJECT.format("dog", 0, CORNERS.format(1, 1, 20, 10)),
        OBJECT.format("cat", 1, CORNERS.format(3, 2, 4, 9)),
    )
    write_year(tmp_path / "VOC2007", {"trainval": ["1", "2"], "test": ["3"]}, dog + cat)
    write_year(tmp_path / "VOC2012", {"trainval": ["4"]}, dog)
    dataset = opened(tmp_path, kind="voc")
    assert dataset.class_names == ("cat", "dog")
    assert [Path(image.path).stem for image in dataset.train.images] == ["1", "2", "4"]
    image = dataset.test.images[0]
    assert (image.size, image.labels.tolist(), image.boxes.tolist()) == ((10, 20), [1], [[0, 0, 20, 10]])
    assert dataset.train.left_out == {DIFFICULT: 2}
    truth = dataset.test.ground_truth["annotations"]
    assert [(entry["bbox"], entry["iscrowd"]) for entry in truth] == [([0, 0, 20, 10], 0), ([2, 1, 2, 8], 1)]
    with pytest.raises(UserError, match="has boxes but no masks"):
        opened(tmp_path, masks=True, kind="voc")


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        (OBJECT.format("dog", 0, CORNERS.format(1, 1, "x", 4)), "bndbox/xmax 'x'"),
        ("<object><name>dog</name></object>", "object has no bndbox/xmin"),
        ("<object>", "not valid XML"),
        (OBJECT.format("dig", 0, CORNERS.format(1, 1, 3, 4)), "class 'dig'.*dog"),
    ],
)
def test_voc_files_that_are_wrong_are_one_line(tmp_path: Path, objects: str, message: str):
    write_year(tmp_path, {"trainval": ["1"]}, objects)
    with pytest.raises(UserError, match=message) as error:
        read_voc([(str(tmp_path), "trainval")], ["dog"])
    assert "\n" not in str(error.value)
