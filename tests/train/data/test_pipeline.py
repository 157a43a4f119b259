"""Batches: order, seeds, positions, masks, and what becomes of images that cannot be read."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.train.support import SMALL, reader_of_split, replace, small, write_images
from train import evaluate
from train.__main__ import main
from train.config import DataConfig
from train.config.errors import UserError
from train.data import Batch, Reader, evaluation_batches, open_dataset, training_iterator


class Numbered:
    """Images that hold their own number, with the number as label."""

    def __init__(self, count: int, shape: tuple[int, int, int] = (4, 4, 1)) -> None:
        self._count, self._shape = count, shape

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return np.full(self._shape, index, np.uint8), index

    def name(self, index: int) -> str:
        return f"image {index}"


class Arrow(Numbered):
    """The same image again and again, which is not its own mirror image."""

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return np.arange(16, dtype=np.uint8).reshape(4, 4, 1), index


def plain(batch_size: int, **settings: Any) -> DataConfig:
    return DataConfig(**{"batch_size": batch_size, "augmentation": "none", "flip": False, **settings})


def batches(
    reader: Reader, count: int, seed: int = 0, start: int = 0, process: tuple[int, int] = (0, 1)
) -> list[Batch]:
    iterator = training_iterator(reader, seed, process)
    if start:
        iterator.set_state({"next_index": start})
    return list(itertools.islice(iterator, count))


def labels(some: list[Batch]) -> list[int]:
    return np.concatenate([batch["label"] for batch in some]).tolist()


def together(parts: list[list[Batch]]) -> list[Batch]:
    """The batches whose rows several processes have read, in the order of the processes."""
    rows = zip(*parts, strict=True)
    return [{name: np.concatenate([part[name] for part in row]) for name in row[0]} for row in rows]


def assert_equal(one: list[Batch], two: list[Batch]) -> None:
    assert len(one) == len(two)
    for a, b in zip(one, two, strict=True):
        assert a.keys() == b.keys() >= {"image", "label"}
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


@pytest.fixture
def digits() -> Reader:
    config = small().data
    return reader_of_split(open_dataset(config).train, config)


def test_batches_have_the_types_and_shapes_they_promise(digits: Reader):
    (batch,) = batches(digits, 1)
    assert {name: (value.dtype.name, value.shape) for name, value in batch.items()} == {
        "image": ("uint8", (16, 8, 8, 1)),
        "label": ("int32", (16,)),
    }


@pytest.mark.parametrize(("count", "batch_size"), [(12, 4), (10, 4), (5, 16)])
def test_every_pass_gives_each_image_once_in_another_order(count: int, batch_size: int):
    order = labels(batches(reader_of_split(Numbered(count), plain(batch_size)), 3 * count))
    passes = [order[start : start + count] for start in range(0, 3 * count, count)]
    assert [sorted(part) for part in passes] == [list(range(count))] * 3
    assert passes[0] != passes[1] != passes[2] != passes[0]


def test_the_same_seed_gives_the_same_batches_and_another_seed_others(digits: Reader):
    one = batches(digits, 3, seed=1)
    assert_equal(one, batches(digits, 3, seed=1))
    assert labels(one) != labels(batches(digits, 3, seed=2))


def test_the_number_of_threads_changes_nothing(digits: Reader):
    single = reader_of_split(digits.split, replace(digits.config, {"num_threads": 1}))
    assert_equal(batches(digits, 4), batches(single, 4))


def test_a_saved_position_gives_the_following_batches_bit_for_bit(digits: Reader):
    iterator = training_iterator(digits, 3)
    for _ in range(5):
        next(iterator)
    position = iterator.get_state()
    assert position == {"next_index": 5}
    following = list(itertools.islice(iterator, 4))
    again = training_iterator(digits, 3)
    again.set_state(position)
    assert_equal(following, list(itertools.islice(again, 4)))
    assert_equal(following, batches(digits, 9, seed=3)[5:])


@pytest.mark.parametrize("count", [1, 2, 4, 16])
def test_processes_read_the_rows_of_the_batches_that_one_would_read(count: int):
    config = plain(16, augmentation="pad_crop", pad=2, flip=True, rotate=20.0, color_jitter=0.4, num_threads=3)
    reader = reader_of_split(Arrow(103), config)
    parts = [batches(reader, 20, process=(index, count)) for index in range(count)]
    assert {batch["image"].shape for part in parts for batch in part} == {(16 // count, 4, 4, 1)}
    assert_equal(together(parts), batches(reader, 20))


def test_processes_together_read_each_image_once_in_every_pass():
    reader = reader_of_split(Numbered(103), plain(16))
    order = labels(together([batches(reader, 26, process=(index, 4)) for index in range(4)]))
    for start in range(0, 4 * 103, 103):
        assert sorted(order[start : start + 103]) == list(range(103))


def test_another_number_of_processes_goes_on_where_the_first_stopped(digits: Reader):
    iterators = [training_iterator(digits, 3, (index, 2)) for index in range(2)]
    for _ in range(7):
        positions = [(next(iterator), iterator.get_state())[1] for iterator in iterators]
    assert positions == [{"next_index": 7}] * 2
    parts = [batches(digits, 3, seed=3, start=7, process=(index, 4)) for index in range(4)]
    assert_equal(together(parts), together([list(itertools.islice(iterator, 3)) for iterator in iterators]))


def test_a_position_in_a_later_pass_is_found_again():
    config = plain(4, augmentation="pad_crop", pad=2, flip=True)
    reader = reader_of_split(Numbered(10), config)
    assert_equal(batches(reader, 12)[9:], batches(reader, 3, start=9))


def test_the_same_image_is_augmented_anew_in_every_pass():
    reader = reader_of_split(Arrow(1), plain(1, augmentation="pad_crop", pad=1))
    assert len({batch["image"].tobytes() for batch in batches(reader, 100)}) == 9


def test_flip_mirrors_half_of_the_images_from_left_to_right():
    images = batches(reader_of_split(Arrow(1000), plain(1000, flip=True)), 1)[0]["image"]
    original = Arrow(1)[0][0]
    same, mirrored = ((images == image).all(axis=(1, 2, 3)) for image in (original, original[:, ::-1]))
    assert (same ^ mirrored).all()
    assert 450 < mirrored.sum() < 550


def test_no_augmentation_gives_the_images_as_they_are(digits: Reader):
    reader = reader_of_split(digits.split, plain(16))
    (batch,) = batches(reader, 1)
    known = {digits.split[index][0].tobytes() for index in range(len(digits))}
    assert all(image.tobytes() in known for image in batch["image"])


@pytest.mark.parametrize("augmentation", ["none", "pad_crop", "random_resized_crop"])
def test_images_of_any_size_come_in_the_size_of_the_settings(augmentation: str):
    class Growing(Numbered):
        def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
            return np.full((5 + index, 9, 3), 7, np.uint8), index

    config = plain(4, augmentation=augmentation, image_size=6, resize=8, pad=1, flip=True)
    reader = reader_of_split(Growing(4), config)
    assert reader.image_shape == (6, 6, 3)
    assert batches(reader, 1)[0]["image"].shape == (4, 6, 6, 3)
    assert [batch["image"].shape for batch in evaluation_batches(reader)] == [(4, 6, 6, 3)]


def test_evaluation_resizes_and_cuts_the_centre():
    class Halves(Numbered):
        def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
            return np.repeat(np.asarray([[0, 0, 1, 2, 3, 4, 5, 0]], np.uint8), 4, axis=0)[..., None], 0

    (batch,) = evaluation_batches(reader_of_split(Halves(1), plain(1, image_size=2, resize=4)))
    assert batch["image"][0, ..., 0].tolist() == [[2, 3], [2, 3]]


@pytest.mark.parametrize(("channels", "shape"), [(None, (4, 4, 1)), (1, (4, 4, 1)), (3, (4, 4, 3))])
def test_channels_are_those_of_the_settings(channels: int | None, shape: tuple[int, int, int]):
    reader = reader_of_split(Numbered(2), plain(2, channels=channels))
    assert reader.image_shape == shape
    assert batches(reader, 1)[0]["image"].shape == (2, *shape)


def test_images_of_different_shapes_are_refused():
    class Odd(Numbered):
        def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
            return np.zeros((4 + (index == 2), 4, 1), np.uint8), 0

    for read in (lambda r: batches(r, 1), lambda r: list(evaluation_batches(r))):
        with pytest.raises(
            UserError, match=r"image 2 has .*\(5, 4, 1\), the first image \(4, 4, 1\): set data\.image_size"
        ):
            read(reader_of_split(Odd(3), plain(3)))


def test_images_that_are_no_bytes_are_refused():
    class Floats(Numbered):
        def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
            return np.zeros((4, 4, 1), np.float32), 0

    with pytest.raises(UserError, match=r"image 0 is float32 \(4, 4, 1\), not uint8"):
        reader_of_split(Floats(1), plain(1))[0]


@pytest.mark.parametrize(("count", "batch_size", "full"), [(10, 4, 3), (8, 4, 2), (3, 16, 1), (1, 1, 1)])
def test_evaluation_gives_every_image_once_in_full_batches(count: int, batch_size: int, full: int):
    given = list(evaluation_batches(reader_of_split(Numbered(count), plain(batch_size))))
    assert [batch["image"].shape for batch in given] == [(batch_size, 4, 4, 1)] * full
    mask = np.concatenate([batch["mask"] for batch in given])
    assert mask.tolist() == [place < count for place in range(full * batch_size)]
    assert np.asarray(labels(given))[mask].tolist() == list(range(count))
    images = np.concatenate([batch["image"] for batch in given])
    assert images[mask][:, 0, 0, 0].tolist() == list(range(count))


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_processes_evaluate_the_same_rows_in_the_same_number_of_batches(processes: int):
    reader = reader_of_split(Numbered(103), plain(16))
    parts = [list(evaluation_batches(reader, (index, processes))) for index in range(processes)]
    assert [len(part) for part in parts] == [7] * processes
    assert_equal(together(parts), list(evaluation_batches(reader)))
    assert sum(batch["mask"].sum() for part in parts for batch in part) == 103


class Failing(Numbered):
    """A disk that fails in the middle."""

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        if index == 70:
            raise OSError(5, "Input/output error", "image 70")
        return super().__getitem__(index)


@pytest.mark.parametrize("threads", [1, 8])
def test_an_error_of_a_thread_that_reads_comes_out_where_batches_are_asked_for(threads: int):
    reader = reader_of_split(Failing(103), plain(16, num_threads=threads))
    with pytest.raises(OSError, match="Input/output error: 'image 70'"):
        batches(reader, 7)
    given = []
    with pytest.raises(OSError, match="Input/output error: 'image 70'"):
        given.extend(evaluation_batches(reader))
    iterator = evaluation_batches(reader)
    assert labels([next(iterator) for _ in range(4)]) == list(range(64))


@pytest.fixture
def damaged(tmp_path: Path) -> tuple[Path, list[str]]:
    """39 training and 11 test images of two classes, two of each class damaged; the names of those."""
    bad = []
    for part, count in (("train", 20), ("test", 6)):
        for seed, name in enumerate("ab"):
            paths = write_images(tmp_path / "images" / part / name, count - seed, seed=seed)
            for path in (paths[0], paths[-1]):
                path.write_bytes(b"no image")
                bad.append(str(path))
    return tmp_path / "images", sorted(bad)


def reader_of(folder: Path, part: str) -> Reader:
    config = plain(4, source=f"folder:{folder}", skip_unreadable=True)
    return reader_of_split(getattr(open_dataset(config), part), config)


def test_training_passes_over_unreadable_images_and_takes_the_next(damaged: tuple[Path, list[str]]):
    folder, bad = damaged
    reader = reader_of(folder, "train")
    assert len(reader) == 39
    given = batches(reader, 30)
    assert reader.unreadable == {name for name in bad if "/train/" in name}
    known = {reader[index]["image"].tobytes() for index in range(39)}
    assert {image.tobytes() for batch in given for image in batch["image"]} <= known


def test_evaluation_counts_every_readable_image_once(damaged: tuple[Path, list[str]]):
    folder, bad = damaged
    reader = reader_of(folder, "test")
    given = list(evaluation_batches(reader))
    mask = np.concatenate([batch["mask"] for batch in given])
    assert (len(reader), int(mask.sum())) == (11, 7)
    assert np.bincount(np.asarray(labels(given))[mask]).tolist() == [4, 3]
    images = np.concatenate([batch["image"] for batch in given])[mask]
    assert len({image.tobytes() for image in images}) == 7
    assert reader.unreadable == {name for name in bad if "/test/" in name}


def test_a_split_without_readable_images_is_refused(damaged: tuple[Path, list[str]]):
    folder, _ = damaged
    reader = reader_of(folder, "test")
    for index in range(len(reader)):
        Path(reader.split.name(index)).write_bytes(b"")
    with pytest.raises(UserError, match=r"none of the 11 images of folder:.* can be decoded"):
        reader[0]


def test_programs_count_and_say_what_they_skipped(
    damaged: tuple[Path, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder, bad = damaged
    flags = ["--data.source", f"folder:{folder}", "--data.skip_unreadable", "True", "--total_steps", "3"]
    workdir = str(tmp_path / "run")
    main([SMALL, *flags, "--workdir", workdir])
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["test_images"], summary["unreadable_images"]) == (7, bad)
    trained = capsys.readouterr().out.splitlines()
    assert "8 unreadable images skipped, see summary.json" in trained
    evaluate.main(["--workdir", workdir])
    said = capsys.readouterr()
    assert said.err.splitlines()[-1] == "4 unreadable images skipped"
    assert said.out.splitlines()[-1] == trained[-1]
