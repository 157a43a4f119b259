"""COCO annotation files: what is read, what is left out, and what is refused."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from train.config.errors import UserError
from train.data.coco import CLIPPED, CROWD, EMPTY, FLAT, MISSING, read_coco, read_masks

SQUARE = [[2.0, 1.0, 6.0, 1.0, 6.0, 5.0, 2.0, 5.0]]
CONTENT: dict[str, Any] = {
    "images": [
        {"id": 9, "file_name": "a.png", "height": 8, "width": 10},
        {"id": 3, "file_name": "b.png", "height": 6, "width": 6},
        {"id": 4, "file_name": "gone.png", "height": 6, "width": 6},
    ],
    "categories": [{"id": 7, "name": "dog"}, {"id": 2, "name": "cat"}],
    "annotations": [
        {"id": 1, "image_id": 9, "category_id": 7, "bbox": [2, 1, 4, 4], "iscrowd": 0, "segmentation": SQUARE},
        {"id": 2, "image_id": 9, "category_id": 2, "bbox": [5, 5, 20, 20], "iscrowd": 0, "segmentation": SQUARE},
        {"id": 3, "image_id": 9, "category_id": 2, "bbox": [0, 0, 9, 9], "iscrowd": 1},
        {"id": 4, "image_id": 9, "category_id": 2, "bbox": [3, 3, 0, 2]},
        {"id": 5, "image_id": 9, "category_id": 2, "bbox": [30, 3, 4, 2]},
    ],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, size in (("a.png", (10, 8)), ("b.png", (6, 6))):
        Image.new("RGB", size).save(tmp_path / name)
    return tmp_path


def write(folder: Path, content: Any) -> str:
    (folder / "annotations.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return str(folder / "annotations.json")


def test_objects_are_read_by_image_and_what_is_left_out_is_counted(folder: Path, capsys: pytest.CaptureFixture[str]):
    path = write(folder, CONTENT)
    found = read_coco(path, str(folder))
    assert (found.class_names, found.category_ids) == (("cat", "dog"), (2, 7))
    first, second = found.images
    assert (first.image_id, first.size, Path(first.path).name) == (9, (8, 10), "a.png")
    assert first.labels.tolist() == [1, 0]
    assert first.boxes.tolist() == [[2, 1, 6, 5], [5, 5, 10, 8]]
    assert second.boxes.shape == (0, 4)
    assert dict(found.left_out) == {CROWD: 1, FLAT: 2, CLIPPED: 1, MISSING: 1, EMPTY: 1}
    found.print_notes()
    said = capsys.readouterr().err
    assert said.startswith("note: ")
    assert all(f"{count} {reason}" in said for reason, count in found.left_out.items())


def test_polygons_and_run_lengths_become_masks(folder: Path):
    content = copy.deepcopy(CONTENT)
    runs = {"size": [8, 10], "counts": [8 * 2 + 1, 4, 4, 4, 51]}  # by column: rows 1 to 4 of columns 2 and 3
    content["annotations"][1]["segmentation"] = runs
    image = read_coco(write(folder, content), str(folder), masks=True).images[0]
    square, columns = read_masks(image, "annotations.json")
    expected = np.zeros((2, 8, 10), np.uint8)
    expected[0, 1:5, 2:6] = expected[1, 1:5, 2:4] = 1
    np.testing.assert_array_equal([square, columns], expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: json.dumps(c)[:-30], "annotations.json is not valid JSON"),
        (lambda c: [], "no COCO file: it holds a list"),
        (lambda c: c.pop("images") and c, "it has no list of images"),
        (lambda c: c["annotations"][1].pop("bbox") and c, "entry 1 of annotations has no bbox"),
        (lambda c: c["annotations"][1].update(bbox=[1, 2, 3]) or c, r"annotation 2 has bbox \[1, 2, 3\]"),
        (lambda c: c["annotations"][1].update(bbox=[1, 2, 3, "x"]) or c, "annotation 2 has bbox .* not four numbers"),
        (
            lambda c: c["annotations"][1].update(bbox=[1, 2, float("nan"), 4]) or c,
            "annotation 2 has bbox .* not finite",
        ),
        (lambda c: c["annotations"][1].update(category_id=1) or c, "annotation 2 has category_id 1, which no category"),
        (lambda c: c["annotations"][1].update(image_id=1) or c, "annotation 2 has image_id 1, which no image"),
        (lambda c: c["annotations"][1].update(id=1) or c, "id 1 occurs twice in annotations"),
        (lambda c: c["annotations"][1].update(iscrowd="0") or c, "annotation 2 has iscrowd '0', which must be 0 or 1"),
        (lambda c: c["annotations"][1].update(segmentation=[[1, 1, 9, 9]]) or c, "annotation 2 has a polygon"),
        (lambda c: c["annotations"][1].update(segmentation={"size": [4, 4], "counts": [16]}) or c, "an image of 8x10"),
        (lambda c: c["images"][0].update(id="9") or c, "entry 0 of images has id '9', which must be an integer"),
        (lambda c: c["images"][0].update(file_name=None) or c, "image 9 has file_name None"),
        (lambda c: c["images"][0].update(height=8.5) or c, "image 9 has height and width"),
        (lambda c: c.update(categories=[], annotations=[]) or c, "has no categories"),
        (lambda c: c["annotations"][1].pop("segmentation") and c, "annotation 2 has no segmentation"),
        (
            lambda c: c.update(images=c["images"][2:], annotations=[]) or c,
            "none of its 1 images, such as gone",
        ),
    ],
)
def test_what_is_wrong_is_one_line_with_file_and_entry(folder: Path, change: Any, message: str):
    path = write(folder, change(copy.deepcopy(CONTENT)))
    with pytest.raises(UserError, match=message) as error:
        read_coco(path, str(folder), masks=True)
    assert path in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ("polygon", "neither polygons nor run lengths"),
        ({"counts": [1, 2]}, "neither polygons nor run lengths"),
        ({"size": [8, 10], "counts": [10, 1000]}, "neither polygons nor run lengths"),
        ({"size": [8, 10], "counts": "zzzzzzzz"}, "neither polygons nor run lengths"),
        ([[1.0, 2.0, 3.0]], "0x0 pixels"),
        ({"size": [4, 4], "counts": [2, 14]}, "4x4 pixels in an image of 8x10"),
    ],
)
def test_segmentations_that_do_not_fit_are_one_line(folder: Path, segmentation: Any, message: str):
    content = copy.deepcopy(CONTENT)
    content["annotations"][0]["segmentation"] = segmentation
    image = read_coco(write(folder, content), str(folder)).images[0]
    with pytest.raises(UserError, match=f"annotations.json: an object of image 9 .*{message}"):
        read_masks(image, "annotations.json")


def test_a_missing_file_is_one_line(folder: Path):
    with pytest.raises(UserError, match=r"cannot read annotations .*none\.json"):
        read_coco(str(folder / "none.json"), str(folder))
