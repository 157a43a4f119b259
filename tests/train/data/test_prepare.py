"""Data sets prepared from small copies of what their makers give away, and read back."""

from __future__ import annotations

import dataclasses
import gzip
import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from train.config import DataConfig
from train.config.errors import UserError
from train.data import Dataset, Split, open_dataset
from train.data.archives import ARCHIVES
from train.prepare import main, prepare, requirements

WHOLE = dict(ARCHIVES)
COUNTS = {
    "fashion_mnist": (20, 7),
    "cifar10": (15, 3),
    "cifar100": (3, 3),
    "caltech_birds2011": (2, 1),
    "cars196": (2, 1),
    "fgvc_aircraft": (2, 1),
}
"""Training and test images of the small copies."""
NOISE = np.random.default_rng(0)
Expected = dict[str, list[tuple[np.ndarray, int]]]


@pytest.fixture(autouse=True)
def small_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, archive in WHOLE.items():
        monkeypatch.setitem(ARCHIVES, name, dataclasses.replace(archive, counts=COUNTS[name]))


def refuse(name: str, folder: Path, message: str) -> None:
    """Preparing gives a message, and leaves no set behind."""
    with pytest.raises(UserError, match=message) as error:
        prepare(name, str(folder / "files"), str(folder / "sets"))
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="is not prepared"):
        open_dataset(DataConfig(source=f"tfds:{name}", tfds_dir=str(folder / "sets")))


def read_back(name: str, source: Path, data_dir: Path) -> Dataset:
    prepare(name, str(source), str(data_dir))
    return open_dataset(DataConfig(source=f"tfds:{name}", tfds_dir=str(data_dir)))


def assert_holds(split: Split, expected: list[tuple[np.ndarray, int]]) -> None:
    """The same images with the same labels, in any order."""
    given = sorted(((image.shape, image.tobytes()), label) for image, label in (split[i] for i in range(len(split))))
    assert given == sorted(((image.shape, image.tobytes()), label) for image, label in expected)


def write_lines(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def write_photo(path: Path, mode: str = "RGB", size: tuple[int, int] = (40, 48)) -> np.ndarray:
    """Writes a JPEG file of noise, and returns what it decodes to."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(NOISE.integers(0, 256, (*size, 3), np.uint8)).convert(mode).save(path)
    return np.asarray(Image.open(path).convert("RGB"))


def write_idx(path: Path, array: np.ndarray) -> None:
    sizes = np.asarray(array.shape, ">i4").tobytes()
    path.write_bytes(gzip.compress(bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()))


def fashion_mnist(folder: Path) -> Expected:
    folder.mkdir()
    expected = {}
    for split, part, count in (("train", "train", 20), ("test", "t10k", 7)):
        images, labels = NOISE.integers(0, 256, (count, 28, 28), np.uint8), np.arange(count, dtype=np.uint8) % 10
        write_idx(folder / f"{part}-images-idx3-ubyte.gz", images)
        write_idx(folder / f"{part}-labels-idx1-ubyte.gz", labels)
        expected[split] = [(image[..., None], int(label)) for image, label in zip(images, labels, strict=True)]
    return expected


def cifar(folder: Path, files: dict[str, list[str]], labels: int) -> Expected:
    folder.mkdir(parents=True)
    expected: Expected = {split: [] for split in files}
    for split, names in files.items():
        for name in names:
            with open(folder / name, "wb") as file:
                for _ in range(3):
                    image, given = NOISE.integers(0, 256, (32, 32, 3), np.uint8), NOISE.integers(0, 3, labels, np.uint8)
                    file.write(given.tobytes() + image.transpose(2, 0, 1).tobytes())
                    expected[split].append((image, int(given[-1])))
    return expected


def cifar10(folder: Path) -> Expected:
    folder = folder / "cifar-10-batches-bin"
    expected = cifar(folder, {"train": [f"data_batch_{k}.bin" for k in range(1, 6)], "test": ["test_batch.bin"]}, 1)
    write_lines(folder / "batches.meta.txt", "airplane", "automobile", "bird", "")
    return expected


def cifar100(folder: Path) -> Expected:
    expected = cifar(folder / "cifar-100-binary", {"train": ["train.bin"], "test": ["test.bin"]}, 2)
    write_lines(folder / "cifar-100-binary" / "fine_label_names.txt", "apple", "aquarium_fish", "baby")
    write_lines(folder / "cifar-100-binary" / "coarse_label_names.txt", "aquatic_mammals", "fish")
    return expected


def caltech_birds2011(folder: Path) -> Expected:
    folder = folder / "CUB_200_2011"
    rows = [("1", "001.Albatross/A_01.jpg", 1, 1), ("2", "001.Albatross/A_02.jpg", 0, 1), ("3", "002.Crow/C.jpg", 1, 2)]
    write_lines(folder / "images.txt", *(f"{key} {path}" for key, path, _, _ in rows))
    write_lines(folder / "train_test_split.txt", *(f"{key} {train}" for key, _, train, _ in rows))
    write_lines(folder / "image_class_labels.txt", *(f"{key} {label}" for key, _, _, label in rows))
    write_lines(folder / "classes.txt", "1 001.Albatross", "2 002.Crow")
    modes = {"1": "RGB", "2": "L", "3": "RGB"}  # the set has a few gray photos
    photos = {key: write_photo(folder / "images" / path, modes[key]) for key, path, _, _ in rows}
    return {"train": [(photos["1"], 0), (photos["3"], 1)], "test": [(photos["2"], 0)]}


def cars196(folder: Path) -> Expected:
    from scipy.io import savemat

    def annotations(path: Path, *rows: tuple[str, int]) -> None:
        table = np.zeros((1, len(rows)), [("bbox_x1", object), ("class", object), ("fname", object)])
        for place, (name, label) in enumerate(rows):
            table[0, place] = (np.uint8([[7]]), np.uint8([[label]]), name)
        savemat(path, {"annotations": table})

    (folder / "devkit").mkdir(parents=True)
    names = np.asarray([["AM General Hummer SUV 2000", "Acura RL Sedan 2012"]], object)
    savemat(folder / "devkit" / "cars_meta.mat", {"class_names": names})
    annotations(folder / "devkit" / "cars_train_annos.mat", ("00001.jpg", 2), ("00002.jpg", 1))
    annotations(folder / "cars_test_annos_withlabels.mat", ("00001.jpg", 1))
    train = [write_photo(folder / "cars_train" / f"0000{number}.jpg") for number in (1, 2)]
    test = write_photo(folder / "cars_test" / "00001.jpg", size=(30, 60))
    return {"train": [(train[0], 1), (train[1], 0)], "test": [(test, 0)]}


MADE: dict[str, tuple[Callable[[Path], Expected], tuple[str, ...]]] = {
    "cifar10": (cifar10, ("airplane", "automobile", "bird")),
    "cifar100": (cifar100, ("apple", "aquarium_fish", "baby")),
    "caltech_birds2011": (caltech_birds2011, ("001.Albatross", "002.Crow")),
    "cars196": (cars196, ("AM General Hummer SUV 2000", "Acura RL Sedan 2012")),
}


@pytest.mark.parametrize("name", MADE)
def test_a_set_is_prepared_and_read_back_pixel_for_pixel(name: str, tmp_path: Path):
    make, class_names = MADE[name]
    expected = make(tmp_path / "files")
    data = read_back(name, tmp_path / "files", tmp_path / "sets")
    assert (data.class_names, data.origin) == (class_names, f"{name}/1.0.0 by train.prepare")
    assert_holds(data.train, expected["train"])
    assert_holds(data.test, expected["test"])
    assert "tensorflow" not in sys.modules


def test_fashion_mnist_is_prepared_by_the_program(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    expected = fashion_mnist(tmp_path / "files")
    arguments = ["fashion_mnist", "--from", str(tmp_path / "files"), "--data_dir", str(tmp_path / "sets")]
    monkeypatch.setattr("sys.argv", ["train.prepare", *arguments])
    said = []
    for _ in range(2):
        runpy.run_path(prepare.__code__.co_filename, run_name="__main__")
        said.append(capsys.readouterr().out.splitlines()[-1])
    there = f"{tmp_path}/sets/fashion_mnist/1.0.0: delete it to prepare it again"
    assert said == [
        f"tfds:fashion_mnist in {tmp_path}/sets: 20 training images, 7 test images, 10 classes",
        f"tfds:fashion_mnist is prepared already in {there}",
    ]
    data = open_dataset(DataConfig(source="tfds:fashion_mnist", tfds_dir=str(tmp_path / "sets")))
    assert data.origin == "fashion_mnist/1.0.0 by train.prepare"
    assert (data.class_names[0], data.class_names[9]) == ("T-shirt/top", "Ankle boot")
    assert_holds(data.train, expected["train"])
    assert_holds(data.test, expected["test"])


def test_aircraft_lose_the_banner_at_the_bottom(tmp_path: Path):
    folder = tmp_path / "files" / "fgvc-aircraft-2013b" / "data"
    write_lines(folder / "variants.txt", "707-320", "Global Express")
    write_lines(folder / "images_variant_trainval.txt", "0056978 Global Express", "0062765 707-320")
    write_lines(folder / "images_variant_test.txt", "1025794 707-320")
    levels = {"0056978": 50, "0062765": 100, "1025794": 150}
    for key, level in levels.items():
        image = np.full((120, 80, 3), level, np.uint8)
        image[100:] = 255
        (folder / "images").mkdir(exist_ok=True)
        Image.fromarray(image).save(folder / "images" / f"{key}.jpg", quality=100)
    data = read_back("fgvc_aircraft", tmp_path / "files", tmp_path / "sets")
    assert data.class_names == ("707-320", "Global Express")
    for split, expected in ((data.train, [(50, 1), (100, 0)]), (data.test, [(150, 0)])):
        examples = (split[place] for place in range(len(split)))
        given = sorted((int(image[0, 0, 0]), label) for image, label in examples)
        np.testing.assert_allclose(given, expected, atol=1)
    image = data.test[0][0]
    assert image.shape == (100, 80, 3)
    assert np.abs(image.astype(int) - 150).max() <= 3


def test_a_missing_list_is_named(tmp_path: Path):
    caltech_birds2011(tmp_path)
    (tmp_path / "CUB_200_2011" / "classes.txt").unlink()
    with pytest.raises(UserError, match=rf"{tmp_path}/CUB_200_2011/classes\.txt: No such file or directory"):
        prepare("caltech_birds2011", str(tmp_path), str(tmp_path / "sets"))


@pytest.mark.parametrize("name", ARCHIVES)
def test_missing_files_are_named_with_the_page_to_get_them_from(name: str, tmp_path: Path):
    first = re.escape(ARCHIVES[name].files[0])
    with pytest.raises(UserError, match=rf"{tmp_path} has no {first}.*: it must hold .*https://"):
        prepare(name, str(tmp_path), str(tmp_path / "sets"))
    assert not (tmp_path / "sets").exists()


def test_a_file_cut_short_is_refused(tmp_path: Path):
    cifar10(tmp_path)
    batch = tmp_path / "cifar-10-batches-bin" / "data_batch_3.bin"
    batch.write_bytes(batch.read_bytes()[:-1])
    with pytest.raises(UserError, match=rf"{tmp_path} does not hold cifar-10-.*, or is damaged: cannot reshape"):
        prepare("cifar10", str(tmp_path), str(tmp_path / "sets"))


def test_images_without_labels_are_refused(tmp_path: Path):
    fashion_mnist(tmp_path / "files")
    write_idx(tmp_path / "files" / "t10k-labels-idx1-ubyte.gz", np.zeros(6, np.uint8))
    refuse("fashion_mnist", tmp_path, "or is damaged: 7 images and 6 labels")


@pytest.mark.parametrize(
    ("name", "make", "given", "whole"),
    [
        ("fashion_mnist", fashion_mnist, "20 training and 7", "60000 and 10000"),
        ("cifar10", cifar10, "15 training and 3", "50000 and 10000"),
        ("cifar100", cifar100, "3 training and 3", "50000 and 10000"),
        ("caltech_birds2011", caltech_birds2011, "2 training and 1", "5994 and 5794"),
        ("cars196", cars196, "2 training and 1", "8144 and 8041"),
    ],
)
def test_a_set_that_is_not_whole_is_refused(
    name: str,
    make: Callable[[Path], Expected],
    given: str,
    whole: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    make(tmp_path / "files")
    monkeypatch.setitem(ARCHIVES, name, WHOLE[name])
    refuse(name, tmp_path, f"or is damaged: {given} test images, not {whole}")


@pytest.mark.parametrize("name", ARCHIVES)
def test_it_tells_what_it_wants(name: str, capsys: pytest.CaptureFixture[str]):
    main([name])
    said = capsys.readouterr().out
    assert said == f"{requirements(name)}\n"
    assert said.startswith(f"{name}: {COUNTS[name][0]} training and {COUNTS[name][1]} test images\n")
    assert re.search(r"\b\d[\d.]* [MG]B\b.* https://", said)
    assert all(path in said for path in ARCHIVES[name].files)
    assert said.endswith(f"python -m train.prepare {name} --from DIR\n")


def test_without_a_name_it_tells_what_it_wants_for_all_sets(capsys: pytest.CaptureFixture[str]):
    main([])
    assert capsys.readouterr().out == "\n\n".join(map(requirements, ARCHIVES)) + "\n"


def test_aircraft_have_6667_and_3333_photos():
    assert WHOLE["fgvc_aircraft"].counts == (6667, 3333)


def test_a_label_without_a_class_is_refused(tmp_path: Path):
    cifar10(tmp_path / "files")
    write_lines(tmp_path / "files" / "cifar-10-batches-bin" / "batches.meta.txt", "airplane", "automobile")
    refuse("cifar10", tmp_path, "or is damaged: an image of class 2, where classes are counted from 0 to 1")
    caltech_birds2011(tmp_path / "files")
    write_lines(tmp_path / "files" / "CUB_200_2011" / "image_class_labels.txt", "1 0", "2 1", "3 2")
    refuse("caltech_birds2011", tmp_path, "or is damaged: an image of class -1, where")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((7, 28, 28), np.uint8)[..., :14], r"does not hold bytes of shape \(28, 28\)"),
        (np.zeros(7, np.uint8), r"does not hold bytes of shape \(28, 28\)"),
    ],
)
def test_a_file_of_another_shape_is_refused(array: np.ndarray, message: str, tmp_path: Path):
    fashion_mnist(tmp_path / "files")
    write_idx(tmp_path / "files" / "t10k-images-idx3-ubyte.gz", array)
    refuse("fashion_mnist", tmp_path, rf"t10k-images-idx3-ubyte\.gz {message} in the format of MNIST")


@pytest.mark.parametrize("place", [0, 2, 3])
def test_a_file_of_another_type_is_refused(place: int, tmp_path: Path):
    fashion_mnist(tmp_path / "files")
    path = tmp_path / "files" / "train-labels-idx1-ubyte.gz"
    data = bytearray(gzip.decompress(path.read_bytes()))
    data[place] += 1
    path.write_bytes(gzip.compress(bytes(data)))
    refuse("fashion_mnist", tmp_path, r"train-labels-idx1-ubyte\.gz does not hold bytes of shape \(\)")


def test_a_damaged_gzip_file_is_refused(tmp_path: Path):
    fashion_mnist(tmp_path / "files")
    path = tmp_path / "files" / "train-images-idx3-ubyte.gz"
    data = bytearray(path.read_bytes())
    for damaged in (data[:30] + bytes(50) + data[80:], data[:-100], b"no gzip at all"):
        path.write_bytes(damaged)
        refuse("fashion_mnist", tmp_path, "does not hold the four .gz files .*, or is damaged: .")


@pytest.mark.parametrize("name", ["/etc/passwd", "../../../secret.jpg", "001.Albatross/../../../x.jpg"])
def test_a_list_that_names_a_file_elsewhere_is_refused(name: str, tmp_path: Path):
    caltech_birds2011(tmp_path / "files")
    folder = tmp_path / "files" / "CUB_200_2011"
    write_lines(folder / "images.txt", "1 001.Albatross/A_01.jpg", f"2 {name}", "3 002.Crow/C.jpg")
    refuse("caltech_birds2011", tmp_path, f"a photo is named {re.escape(name)}, which is outside of {folder}/images")


def test_an_annotation_that_names_a_file_elsewhere_is_refused(tmp_path: Path):
    cars196(tmp_path / "files")
    path = tmp_path / "files" / "cars_test_annos_withlabels.mat"
    data = path.read_bytes()
    assert data.count(b"00001.jpg") == 1
    path.write_bytes(data.replace(b"00001.jpg", b"../00.jpg"))
    refuse("cars196", tmp_path, r"a photo is named \.\./00\.jpg, which is outside of .*cars_test")


def test_annotations_that_cannot_be_read_are_named(tmp_path: Path):
    cars196(tmp_path / "files")
    path = tmp_path / "files" / "devkit" / "cars_meta.mat"
    for data in (b"", b"nothing", path.read_bytes()[:150]):
        path.write_bytes(data)
        refuse("cars196", tmp_path, r"or is damaged: .*devkit/cars_meta\.mat cannot be read: .")


def test_a_missing_photo_is_named_and_leaves_no_set_behind(tmp_path: Path):
    caltech_birds2011(tmp_path / "files")
    photo = tmp_path / "files" / "CUB_200_2011" / "images" / "002.Crow" / "C.jpg"
    photo.unlink()
    refuse("caltech_birds2011", tmp_path, f"cannot prepare .*files: {photo}: No such file or directory")


def test_a_photo_that_is_no_image_is_named_and_leaves_no_set_behind(tmp_path: Path):
    caltech_birds2011(tmp_path / "files")
    photo = tmp_path / "files" / "CUB_200_2011" / "images" / "002.Crow" / "C.jpg"
    photo.write_bytes(b"<html>404</html>")
    refuse("caltech_birds2011", tmp_path, f"cannot prepare .*files: cannot identify image file '{photo}'")


def test_an_unknown_set_is_refused_with_the_nearest_name(tmp_path: Path):
    with pytest.raises(UserError, match=r"NAME='cifar_10' must be one of fashion_mnist, .*: did you mean cifar10\?"):
        prepare("cifar_10", str(tmp_path))
    with pytest.raises(UserError, match=r"did you mean cifar10\?"):
        requirements("cifar_10")
