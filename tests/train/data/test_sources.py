"""What the three sources give, and what they say of folders and sets that are not as they should be."""

from __future__ import annotations

import dataclasses
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.train import tiny_digits
from tests.train.support import SMALL, small, write_images
from train import train
from train.__main__ import main
from train.config import DataConfig
from train.config.errors import UserError
from train.data import Dataset, Split, open_dataset
from train.data.images import UnreadableImageError
from train.data.sources import SOURCES


def labels(split: Split) -> list[int]:
    return [split[index][1] for index in range(len(split))]


def names(split: Split) -> list[str]:
    return [split.name(index) for index in range(len(split))]


def open_folder(path: Path, **settings: object) -> Dataset:
    return open_dataset(DataConfig(source=f"folder:{path}", **settings))


def refuse_folder(path: Path, message: str, **settings: object) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        open_folder(path, **settings)


def test_digits_are_1437_and_360_images_of_8x8_gray_bytes():
    data = open_dataset(DataConfig())
    assert (len(data.train), len(data.test), data.class_names) == (1437, 360, tuple("0123456789"))
    assert re.fullmatch(r"digits of scikit-learn \d[\d.]+", data.origin)
    for split in (data.train, data.test):
        images = np.stack([split[index][0] for index in range(len(split))])
        assert (images.dtype, images.shape[1:], images.min(), images.max()) == (np.uint8, (8, 8, 1), 0, 255)
        assert set(np.unique(images)) == set(np.rint(np.arange(17) * 255 / 16))


def test_digits_are_split_with_the_same_share_of_each_class():
    data = open_dataset(DataConfig())
    held_out = np.bincount(labels(data.test))
    everything = held_out + np.bincount(labels(data.train))
    assert everything.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    np.testing.assert_allclose(held_out, everything * 360 / 1797, atol=1)


def test_digits_are_always_split_alike_and_share_no_image():
    from sklearn.datasets import load_digits

    one, two = open_dataset(DataConfig()), open_dataset(DataConfig())
    for a, b in ((one.train, two.train), (one.test, two.test)):
        assert all(np.array_equal(a[index][0], b[index][0]) for index in range(len(a)))
        assert labels(a) == labels(b)
    rows = [split[index][0].tobytes() for split in (one.train, one.test) for index in range(len(split))]
    original = np.rint(load_digits().images * 255 / 16).astype(np.uint8)
    assert sorted(rows) == sorted(image.tobytes() for image in original)


@pytest.mark.parametrize("held_out", ["test", "val"])
def test_a_folder_with_train_and_test_or_val_is_taken_as_it_is(folder: Path, held_out: str):
    (folder / "test").rename(folder / held_out)
    data = open_folder(folder)
    assert data.class_names == ("a", "b")
    assert labels(data.train) == labels(data.test) == [0, 0, 0, 1, 1]
    files = [f"{name}.png" for name in ("a/00", "a/01", "a/02", "b/00", "b/01")]
    assert names(data.test) == [str(folder / held_out / file) for file in files]


def test_test_goes_before_val(folder: Path):
    shutil.copytree(folder / "test", folder / "val")
    assert names(open_folder(folder).test)[0] == str(folder / "test" / "a" / "00.png")


def test_a_folder_of_classes_is_split_with_the_same_share_of_each(tmp_path: Path):
    write_images(tmp_path / "a", 10)
    write_images(tmp_path / "b", 20)
    data = open_folder(tmp_path, test_fraction=0.3)
    assert np.bincount(labels(data.train)).tolist() == [7, 14]
    assert np.bincount(labels(data.test)).tolist() == [3, 6]
    assert len({*names(data.train), *names(data.test)}) == 30
    assert names(data.test) == names(open_folder(tmp_path, test_fraction=0.3).test)


def test_images_lie_at_any_depth_with_any_known_suffix_and_hidden_files_are_passed_over(tmp_path: Path):
    for name in ("a", "b"):
        write_images(tmp_path / name, 2)
    (tmp_path / "a" / "deep").mkdir()
    (tmp_path / "a" / "00.png").rename(tmp_path / "a" / "deep" / "00.PNG")
    write_images(tmp_path / ".cache", 2)
    shutil.copy(tmp_path / "a" / "01.png", tmp_path / "a" / "._01.png")
    (tmp_path / "a" / "notes.txt").write_text("")
    data = open_folder(tmp_path, test_fraction=0.5)
    assert (data.class_names, data.origin) == (("a", "b"), f"folder {tmp_path}")
    every = {str(tmp_path / name) for name in ("a/01.png", "a/deep/00.PNG", "b/00.png", "b/01.png")}
    assert {*names(data.train), *names(data.test)} == every


def test_a_missing_folder_is_named(tmp_path: Path):
    none = tmp_path / "none"
    refuse_folder(none, f"there is no folder {none} (data.source='folder:{none}')")


def test_an_empty_folder_is_named(tmp_path: Path):
    refuse_folder(tmp_path, f"{tmp_path} needs a folder for each of at least two classes, found []")


def test_a_class_folder_without_images_is_named(folder: Path):
    shutil.rmtree(folder / "test" / "b")
    (folder / "test" / "b").mkdir()
    refuse_folder(folder, f"class folder {folder / 'test' / 'b'} holds no .jpg, .jpeg, .png, .webp files")


def test_a_class_folder_that_the_test_images_lack_is_named(folder: Path):
    write_images(folder / "train" / "c")
    refuse_folder(folder, f"{folder}: train and test differ in these class folders: c")


def test_a_training_folder_without_test_images_is_refused(folder: Path):
    shutil.rmtree(folder / "test")
    refuse_folder(folder, f"{folder} has a folder train, but neither test nor val")


def test_a_class_of_one_image_cannot_be_split(tmp_path: Path):
    write_images(tmp_path / "a", 5)
    write_images(tmp_path / "b", 1)
    refuse_folder(tmp_path, f"{tmp_path / 'b'} has fewer than the 2 images that a train and test split needs")


def test_a_share_too_small_for_every_class_is_refused(tmp_path: Path):
    for name in ("a", "b"):
        write_images(tmp_path / name, 3)
    refuse_folder(tmp_path, f"{tmp_path} cannot be split with test_fraction=0.1", test_fraction=0.1)


def test_an_unreadable_image_is_named(folder: Path):
    (folder / "train" / "a" / "01.png").write_bytes(b"")
    with pytest.raises(UnreadableImageError, match=re.escape(str(folder / "train" / "a" / "01.png"))):
        open_folder(folder).train[1]


def test_a_tfds_set_gives_images_labels_and_names_without_tensorflow(tfds_dir: Path):
    from sklearn.datasets import load_digits

    data = open_dataset(DataConfig(source="tfds:tiny_digits", tfds_dir=str(tfds_dir)))
    assert (len(data.train), len(data.test), data.class_names) == (40, 20, tuple("0123456789"))
    assert data.origin == "tiny_digits/1.0.0 by tests.train.tiny_digits"
    bunch = load_digits()
    rows = {(image.tobytes(), label) for image, label in (data.train[index] for index in range(40))}
    stored = (bunch.images[:40] * 15).astype(np.uint8)
    assert rows == {(image.tobytes(), int(label)) for image, label in zip(stored, bunch.target[:40], strict=True)}
    image, _ = data.test[0]
    assert (image.dtype, image.shape) == (np.uint8, (8, 8, 1))
    assert "tensorflow" not in sys.modules


def test_a_tfds_set_in_a_format_without_random_access_is_refused(tfds_dir: Path, tmp_path: Path):
    shutil.copytree(tfds_dir, tmp_path, dirs_exist_ok=True)
    (info,) = tmp_path.glob("tiny_digits/*/dataset_info.json")
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(UserError, match=r"stored as tfrecord.*tfds build tiny_digits --file_format=array_rec"):
        open_dataset(DataConfig(source="tfds:tiny_digits", tfds_dir=str(tmp_path)))


def test_an_official_tfds_set_that_is_not_prepared_says_how_to_prepare_it(tmp_path: Path):
    command = f"tfds build svhn_cropped --file_format=array_record --data_dir={tmp_path}"
    with pytest.raises(UserError, match=rf"tfds:svhn_cropped is not prepared in {tmp_path}: .*{command}"):
        open_dataset(DataConfig(source="tfds:svhn_cropped", tfds_dir=str(tmp_path)))


@pytest.mark.parametrize("name", ["cifar10", "fgvc_aircraft"])
def test_a_set_that_this_program_can_prepare_says_so(tmp_path: Path, name: str):
    command = f"python -m train.prepare {name} --from DIR --data_dir={tmp_path}"
    with pytest.raises(UserError, match=rf"tfds:{name} is not prepared in {tmp_path}: {command}"):
        open_dataset(DataConfig(source=f"tfds:{name}", tfds_dir=str(tmp_path)))


def test_an_unknown_tfds_set_gives_the_nearest_name(tmp_path: Path):
    with pytest.raises(UserError, match=r"TFDS knows no data set 'fgvc_aircrafts', .*: did you mean fgvc_aircraft\?"):
        open_dataset(DataConfig(source="tfds:fgvc_aircrafts", tfds_dir=str(tmp_path)))


def test_a_small_tfds_set_is_decoded_once(tfds_dir: Path):
    split = open_dataset(DataConfig(source="tfds:tiny_digits", tfds_dir=str(tfds_dir))).train
    assert split[3][0] is split[3][0]
    assert not split[3][0].flags.writeable


def test_a_damaged_record_is_named_and_others_can_be_read(tfds_dir: Path, tmp_path: Path):
    shutil.copytree(tfds_dir, tmp_path, dirs_exist_ok=True)
    (file,) = tmp_path.glob("tiny_digits/*/*train*")
    file.write_bytes(file.read_bytes().replace(b"IHDR", b"IHDX", 1))
    split = open_dataset(DataConfig(source="tfds:tiny_digits", tfds_dir=str(tmp_path))).train
    with pytest.raises(UnreadableImageError, match=r"cannot read record 0 of tfds:tiny_digits/1\.0\.0, split train: "):
        split[0]
    assert split[1][0].shape == (8, 8, 1)


Parts = dict[str, Iterator[tuple[int, dict[str, Any]]]]


def open_digits(folder: Path, parts: Callable[[tiny_digits.TinyDigits], Parts]) -> Dataset:
    """Prepares and opens digits in other splits than the usual ones."""

    class TinyDigits(tiny_digits.TinyDigits, skip_registration=True):
        def _split_generators(self, dl_manager: Any) -> Parts:
            return parts(self)

    TinyDigits(data_dir=str(folder), file_format="array_record").download_and_prepare()
    return open_dataset(DataConfig(source="tfds:tiny_digits", tfds_dir=str(folder)))


def unlabelled(part: Iterator[tuple[int, dict[str, Any]]]) -> Iterator[tuple[int, dict[str, Any]]]:
    return ((key, example | {"label": -1}) for key, example in part)


def test_a_test_split_without_labels_gives_way_to_the_validation_split(tmp_path: Path):
    data = open_digits(
        tmp_path,
        lambda digits: {
            "train": digits._generate_examples(0, 10),
            "validation": digits._generate_examples(10, 14),
            "test": unlabelled(digits._generate_examples(14, 20)),
        },
    )
    assert (len(data.train), len(data.test)) == (10, 4)
    assert names(data.test)[0] == "record 0 of tfds:tiny_digits/1.0.0, split validation"
    assert min(labels(data.test)) >= 0


def test_a_labelled_test_split_goes_before_the_validation_split(tmp_path: Path):
    splits = {"train": (0, 10), "validation": (10, 14), "test": (14, 20)}
    data = open_digits(tmp_path, lambda digits: {key: digits._generate_examples(*at) for key, at in splits.items()})
    assert len(data.test) == 6


def test_a_set_without_labels_to_test_on_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"tfds:tiny_digits/1\.0\.0, split test has no labels"):
        open_digits(
            tmp_path,
            lambda digits: {
                "train": digits._generate_examples(0, 10),
                "test": unlabelled(digits._generate_examples(14, 20)),
            },
        )


def test_a_record_without_a_label_is_named(tmp_path: Path):
    data = open_digits(
        tmp_path,
        lambda digits: {
            "train": unlabelled(digits._generate_examples(0, 10)),
            "test": digits._generate_examples(10, 14),
        },
    )
    with pytest.raises(
        UserError, match=r"record 3 of tfds:tiny_digits/1\.0\.0, split train has label -1, not one from 0"
    ):
        data.train[3]


@pytest.mark.parametrize("source", ["digit", "tfds:", "folder:", "folder", "http://x", ""])
def test_an_unknown_source_is_refused(source: str):
    allowed = "digits, canvas_digits, tfds:NAME or folder:PATH"
    with pytest.raises(UserError, match=rf"data\.source='{source}' must be {allowed}"):
        open_dataset(DataConfig(source=source))


def test_an_entry_in_the_table_is_a_new_source(monkeypatch: pytest.MonkeyPatch):
    def first(count: str, config: DataConfig) -> Dataset:
        return open_dataset(dataclasses.replace(config, source="digits", train_images=int(count)))

    monkeypatch.setitem(SOURCES, "first:COUNT", first)
    assert len(open_dataset(DataConfig(source="first:7")).train) == 7
    with pytest.raises(UserError, match="or first:COUNT"):
        open_dataset(DataConfig(source="first"))


def test_a_config_trains_on_a_tfds_set(tfds_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    flags = ["--data.source", "tfds:tiny_digits", "--data.tfds_dir", str(tfds_dir), "--total_steps", "3"]
    main([SMALL, *flags, "--workdir", str(tmp_path)])
    said = capsys.readouterr().out.splitlines()
    assert "resnet20_cifar on tfds:tiny_digits: 40 training images of 8x8x1, 10 classes, 3 steps of 16" in said
    assert said[-1] in {f"test_accuracy={right / 20:.4f}" for right in range(21)}


def test_a_config_trains_on_a_folder(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    flags = ["--data.source", f"folder:{folder}", "--total_steps", "3", "--workdir", str(tmp_path / "run")]
    main([SMALL, *flags])
    said = capsys.readouterr().out.splitlines()
    assert f"resnet20_cifar on folder:{folder}: 5 training images of 8x8x3, 2 classes, 3 steps of 16" in said
    assert "a batch is larger than the data set: it repeats images" in said
    assert said[-1] in {f"test_accuracy={right / 5:.4f}" for right in range(6)}


def test_a_class_folder_that_comes_later_is_another_run(folder: Path, tmp_path: Path):
    config = small({"data.source": f"folder:{folder}"})
    train(config, str(tmp_path / "run"))
    for part in ("train", "test"):
        write_images(folder / part / "c", 2)
    with pytest.raises(UserError, match=r"class_names .*\('a', 'b'\) there, \('a', 'b', 'c'\) here"):
        train(config, str(tmp_path / "run"))
