import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tnt_exp.config.dataset import DatasetConfig, OnError, Source
from tnt_exp.data import Batches, Dataset, image_files, load_dataset, padded_batches
from tnt_exp.data.image_files import FileImages
from tnt_exp.errors import UserError


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes of 20 noisy JPEG and PNG images of different sizes."""
    random = np.random.default_rng(0)
    for number in range(40):
        pixels = random.integers(0, 256, (*random.integers(20, 60, 2), 3), np.uint8)
        file = tmp_path / "ab"[number % 2] / f"{number}.{'jpg' if number % 3 else 'png'}"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(file)
    return tmp_path


def both(photos: Path, **options: Any) -> tuple[Dataset, Dataset]:
    """The same folder in memory and streamed."""
    held, streamed = (
        load_dataset(
            DatasetConfig(name=Source.image_folder, path=str(photos), image_size=16, memory_limit=limit, **options),
        )
        for limit in (1, 0)
    )
    assert isinstance(held.train.images, np.ndarray)
    assert isinstance(streamed.train.images, FileImages)
    assert isinstance(streamed.test.images, FileImages)
    return held, streamed


def test_a_part_within_the_limit_is_held_and_one_beyond_it_is_not(photos: Path) -> None:
    def kinds(limit: float) -> list[type]:
        config = DatasetConfig(name=Source.image_folder, path=str(photos), image_size=16, memory_limit=limit)
        dataset = load_dataset(config)
        return [type(split.images) for split in (dataset.train, dataset.test)]

    need = 29 * 16 * 16 * 3 / 2**30  # 40 images, 8 for the test, 3 for validation
    assert kinds(need) == [np.ndarray, np.ndarray]
    assert kinds(0.99 * need) == [FileImages, np.ndarray]


@pytest.mark.parametrize("channels", [1, 3])
def test_streamed_batches_are_those_in_memory(photos: Path, channels: int) -> None:
    held, streamed = both(photos, channels=channels)
    ((expected, _),) = Batches(held.train, 6, seed=5, repeats=3).chunks(0, 0, 9)
    ((received, _),) = Batches(streamed.train, 6, seed=5, repeats=3).chunks(0, 0, 9)
    np.testing.assert_array_equal(received, expected)
    assert streamed.image_shape == held.image_shape == (16, 16, channels)
    assert streamed.digest == held.digest
    for epoch in range(2):
        for steps in (1, 3):
            expected = list(Batches(held.train, 4, seed=5).chunks(epoch, 0, steps))
            received = list(Batches(streamed.train, 4, seed=5).chunks(epoch, 0, steps))
            assert len(received) == len(expected)
            for ours, theirs in zip(received, expected, strict=True):
                np.testing.assert_array_equal(ours[0], theirs[0])
                np.testing.assert_array_equal(ours[1], theirs[1])
    for name in ("validation", "test"):
        for ours, theirs in zip(
            padded_batches(getattr(streamed, name), 3), padded_batches(getattr(held, name), 3), strict=True
        ):
            np.testing.assert_array_equal(ours[0], theirs[0])
            np.testing.assert_array_equal(ours[1], theirs[1])
            assert ours[2] == theirs[2]


def test_an_epoch_is_the_same_wherever_it_is_taken_up(photos: Path) -> None:
    _, streamed = both(photos)
    batches = Batches(streamed.train, 4, seed=1)
    ((whole, labels),) = batches.chunks(3, 0, 100)
    for start in range(batches.steps_per_epoch):
        rest = list(batches.chunks(3, start, 2))
        np.testing.assert_array_equal(np.concatenate([images for images, _ in rest]), whole[start:])
        np.testing.assert_array_equal(np.concatenate([numbers for _, numbers in rest]), labels[start:])


def test_order_does_not_depend_on_which_thread_is_done_first(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, streamed = both(photos)
    ((expected, _),) = Batches(streamed.train, 4, seed=1).chunks(0, 0, 100)
    decode, random = image_files.decode_image, np.random.default_rng(0)

    def uneven(file: Path, size: int, channels: int) -> np.ndarray:
        time.sleep(random.uniform(0, 0.01))
        return decode(file, size, channels)

    monkeypatch.setattr(image_files, "decode_image", uneven)
    monkeypatch.setattr(image_files, "cpu_count", lambda: 7)
    received = [images for images, _ in Batches(streamed.train, 4, seed=1).chunks(0, 0, 1)]
    np.testing.assert_array_equal(np.concatenate(received), expected)


def test_no_more_is_decoded_ahead_than_is_documented(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded, decode = [], image_files.decode_image

    def counting(file: Path, size: int, channels: int) -> np.ndarray:
        decoded.append(file)
        return decode(file, size, channels)

    monkeypatch.setattr(image_files, "decode_image", counting)
    monkeypatch.setattr(image_files, "cpu_count", lambda: 1)
    before = set(threading.enumerate())
    files = sorted(photos.rglob("*.png")) * 100
    images = FileImages(files, 8, 3)
    stream = images.prefetch([slice(first, first + 10) for first in range(0, 1000, 10)])
    for expected in (20, 30):  # what was yielded, and one more selection: 16 images or more would wait
        next(stream)
        give_up = time.monotonic() + 60
        while len(decoded) < expected and time.monotonic() < give_up:
            time.sleep(0.01)
        time.sleep(0.3)
        assert expected <= len(decoded) <= expected + 20
    stream.close()
    assert len(decoded) <= 50
    assert set(threading.enumerate()) <= before


def test_images_are_taken_as_of_an_array(photos: Path) -> None:
    held, streamed = both(photos)
    for chosen in (slice(None), slice(0, 5), slice(3, 4), np.array([7, 2, 2]), np.array([], int)):
        np.testing.assert_array_equal(streamed.train.images[chosen], held.train.images[chosen])
    assert streamed.train.images.shape == held.train.images.shape


def test_unreadable_images_are_found_before_training(photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    damaged = sorted((photos / "a").glob("*.jpg"))[2]
    damaged.write_bytes(damaged.read_bytes()[:-200])
    (photos / "b" / "no.png").write_bytes(b"<html>")
    with pytest.raises(UserError, match=r"(jpg|png): truncated, .*dataset\.on_error=skip"):
        load_dataset(DatasetConfig(name=Source.image_folder, path=str(photos), image_size=16, memory_limit=0))
    held, streamed = both(photos, on_error=OnError.skip)
    assert streamed.skipped == held.skipped == 2
    assert damaged.name in caplog.text
    assert streamed.digest == held.digest
    np.testing.assert_array_equal(streamed.train.labels, held.train.labels)
    np.testing.assert_array_equal(streamed.train.images[:], held.train.images)


def test_a_file_that_goes_away_meanwhile_is_named(photos: Path) -> None:
    _, streamed = both(photos)
    (photos / "a" / "2.jpg").unlink()
    with pytest.raises(UserError, match=r"2\.jpg: cannot be read"):
        streamed.train.images[:], streamed.test.images[:], streamed.validation.images[:]  # type: ignore[union-attr]


def test_the_digest_distinguishes_contents_sizes_and_labels(photos: Path) -> None:
    def digest(size: int = 16) -> str:
        return load_dataset(
            DatasetConfig(name=Source.image_folder, path=str(photos), image_size=size, memory_limit=0)
        ).digest

    before = digest()
    assert digest() == before
    assert digest(size=17) != before
    file = photos / "a" / "2.jpg"
    file.rename(photos / "b" / "2.jpg")
    moved = digest()
    assert moved != before
    (photos / "b" / "2.jpg").rename(file)
    assert digest() == before
    file.write_bytes(file.read_bytes() + b"\0")
    assert digest() != before
