"""`tnt-exp predict`: files of every kind, and what is wrong with some of them."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tnt_exp import data
from tnt_exp.cli import main
from tnt_exp.errors import UserError
from tnt_exp.finished_runs import find_run, test_images
from tnt_exp.finished_runs.collection import Run
from tnt_exp.finished_runs.find import load_for_evaluation
from tnt_exp.finished_runs.predict import decode_inputs, expand_inputs, predict_images


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, run_folder: Path) -> Path:
    """The run's test images as PNG files."""
    folder = tmp_path_factory.mktemp("digits")
    split = data.load_dataset(find_run(run_folder).config.dataset).test
    for number, image in enumerate(split.images):
        Image.fromarray(image[..., 0]).save(folder / f"{number:03d}.png")
    return folder


def test_answers_are_those_of_the_evaluation(
    images: Path, run_folder: Path, capsys: pytest.CaptureFixture[str], result: dict
) -> None:
    assert main(["predict", str(run_folder), str(images), "--json", "--batch-size", "50"]) == 0
    captured = capsys.readouterr()
    rows = [json.loads(line) for line in captured.out.splitlines()]
    assert [Path(row["file"]).name for row in rows] == sorted(file.name for file in images.iterdir())
    split = data.load_dataset(find_run(run_folder).config.dataset).test
    right = [int(row["class"]) == label for row, label in zip(rows, split.labels, strict=True)]
    assert np.mean(right) == result["metrics"]["test/accuracy"]
    assert all(row["probability"] == max(row["classes"].values()) and len(row["classes"]) == 3 for row in rows)
    assert "359 images" in captured.err


@pytest.mark.parametrize(("count", "traced"), [(1, False), (8, False), (9, True)])
def test_a_command_traces_no_graph_for_a_few_images(images: Path, run_folder: Path, count: int, traced: bool) -> None:
    finished = find_run(run_folder)
    once, repeatedly = (load_for_evaluation(finished, finished.config.trainer) for _ in range(2))
    found = [
        list(predict_images(classifier, decode_inputs(files, 8, 1), batch_size=64, top=10, once=classifier is once))
        for classifier in (once, repeatedly)
        for files in [iter(sorted(images.iterdir())[:count])]
    ]
    assert (once.predict_function is not None, repeatedly.predict_function is not None) == (traced, True)
    for row, same in zip(*found, strict=True):
        assert (row.file, row.error) == (same.file, None)
        assert dict(row.classes) == pytest.approx(dict(same.classes), abs=1e-6)


def test_any_mode_and_size_is_read_and_bad_files_are_named(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (30, 41, 3), np.uint8)
    picture = Image.fromarray(noise)
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA"):
        picture.convert(mode).save(tmp_path / f"{mode}.png")
    picture.convert("CMYK").save(tmp_path / "CMYK.jpg")
    Image.fromarray(noise[..., 0].astype(np.uint16) * 257).save(tmp_path / "sixteen.png")
    picture.crop((0, 0, 1, 1)).save(tmp_path / "one.png")
    picture.resize((4000, 3000)).save(tmp_path / "large.jpg")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "cut.png").write_bytes((tmp_path / "RGB.png").read_bytes()[:200])
    (tmp_path / "text.txt").write_text("no image, and not named like one")
    assert main(["predict", str(run_folder), str(tmp_path), "--csv", "--batch-size", "4"]) == 1
    captured = capsys.readouterr()
    rows = list(csv.DictReader(io.StringIO(captured.out)))
    assert len(rows) == 12
    assert {Path(row["file"]).name for row in rows if row["error"]} == {"empty.png", "cut.png"}
    for name in ("empty.png", "cut.png"):
        assert name in captured.err
    assert all(0 < float(row["probability"]) <= 1 for row in rows if not row["error"])
    assert "12 images" in captured.err
    assert "2 could not be read" in captured.err


def test_globs_and_a_list_on_standard_input(images: Path, run_folder: Path, tmp_path: Path) -> None:
    listed = "\n".join([str(images / "001.png"), str(tmp_path / "gone.png"), str(images / "002.png")]) + "\n"
    done = subprocess.run(
        [sys.executable, "-m", "tnt_exp", "predict", str(run_folder), str(images / "01*.png"), "-", "--top", "1"],
        input=listed,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 13
    assert "unreadable" in lines[11]
    assert "gone.png" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["gone.png"], "gone.png"),
        (["*.png"], "*.png"),
        (["."], "found none"),
        ([".", "--top", "0"], "--top"),
    ],
)
def test_bad_input_ends_before_anything_slow(run_folder: Path, tmp_path: Path, arguments: list[str], word: str) -> None:
    program = (
        "import sys; from tnt_exp.cli import main; code = main(sys.argv[1:]);"
        "print(sorted({'tensorflow', 'keras', 'mlflow'} & set(sys.modules))); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "predict", str(run_folder), *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (2, "[]\n")
    assert word in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_run_takes_paths_as_it_takes_text(
    images: Path, run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(run_folder)
    pd.testing.assert_frame_equal(run.predict(images / "001.png"), run.predict(str(images / "001.png")))
    with pytest.raises(UserError, match=r"^top: expected 1 or more, received 0\.$"):
        run.predict(images, top=0)
    monkeypatch.setattr(test_images, "evaluate_on", lambda *given: given[-1])
    assert run.evaluate(tmp_path) == str(tmp_path)


def test_files_are_listed_no_further_than_they_are_decoded(images: Path) -> None:
    asked = 0

    def endless() -> object:
        nonlocal asked
        while True:
            asked += 1
            yield images / "000.png"

    stream = decode_inputs(endless(), 8, 1, ahead=16)
    for _ in range(100):
        _, image = next(stream)
        assert image.shape == (8, 8, 1)
    stream.close()
    assert asked <= 100 + 16


def test_named_keeps_the_order_given(images: Path) -> None:
    given = [str(images / "005.png"), str(images / "00[12].png")]
    assert [file.stem for file in expand_inputs(given, [])] == ["005", "001", "002"]
    with pytest.raises(UserError, match="nowhere"):
        expand_inputs(["nowhere"], [])
