"""`tnt-exp export`: written, loaded by its own runtime in a fresh process, compared."""

import importlib.util
import json
import logging
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from finished_runs.conftest import tnt_exp
from finished_runs.refused_command import with_slow_imports_printed
from PIL import Image

from tnt_exp import data
from tnt_exp.cli import main
from tnt_exp.config.compose import compose
from tnt_exp.errors import UserError
from tnt_exp.export import writers
from tnt_exp.export.formats import GRAPHS
from tnt_exp.export.writers import verify_export
from tnt_exp.finished_runs import find_run

LABELS = list("0123456789")


@pytest.fixture(scope="module")
def images(run_folder: Path) -> np.ndarray:
    return data.load_dataset(find_run(run_folder).config.dataset).test.images[:32]


@pytest.fixture(scope="module")
def exported(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of formats that need nothing more than the package, and what the command printed."""
    folder = tmp_path_factory.mktemp("exported [1]")
    formats = "format=keras,safetensors,savedmodel,litert"
    return folder, tnt_exp(folder.parent, "export", str(run_folder), formats, f"output={folder}").stdout


def test_table_says_what_was_measured(exported: tuple[Path, str]) -> None:
    folder, output = exported
    lines = output.splitlines()
    assert [line.split()[0] for line in lines] == ["format", "keras", "safetensors", "savedmodel", "litert"]
    for line in lines[1:]:
        assert float(line.split()[3]) <= 1e-4
    assert sorted(entry.name for entry in folder.iterdir()) == ["keras", "litert", "safetensors", "savedmodel"]


def test_messages_of_native_libraries_are_not_shown(run_folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tnt_exp", "export", str(run_folder), "format=safetensors", f"output={tmp_path}"]
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", ["keras", "safetensors", "savedmodel", "litert"])
def test_metadata_has_labels_and_preprocessing(exported: tuple[Path, str], name: str, result: dict) -> None:
    about = json.loads((exported[0] / name / "metadata.json").read_text())
    assert about["labels"] == LABELS
    assert about["input"] == {
        "name": "images",
        "dtype": "uint8",
        "shape": [None, 8, 8, 1],
        "colour": "grey",
    }
    assert about["preprocessing"]["mean"] == [0.5]
    assert about["metrics"]["test/accuracy"] == result["metrics"]["test/accuracy"]


def test_litert_file_carries_its_labels(exported: tuple[Path, str]) -> None:
    with zipfile.ZipFile(exported[0] / "litert/model.tflite") as archive:
        assert archive.read("labels.txt").decode().split() == LABELS


@pytest.mark.parametrize("preset", ["tnt_ti", "tnt_s_legacy", "cifar_small"])
def test_litert_of_a_model_that_resizes_and_crops(preset: str, tmp_path: Path) -> None:
    from tnt_exp import model
    from tnt_exp.export import runtime
    from tnt_exp.export.writers import litert

    sizes = ["model.image_size=16", "model.patch_size=8", "model.stride=4", "model.depth=2"]
    config = compose(["dataset=cifar10", f"model={preset}", *sizes]).model
    classifier = model.build(config, 10, 3)
    litert(classifier, {"input": {"shape": [None, 20, 20, 3]}, "labels": LABELS}, tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (3, 20, 20, 3), dtype=np.uint8)
    np.testing.assert_allclose(runtime.litert(tmp_path)(images), np.asarray(classifier(images)), atol=1e-4)


@pytest.mark.backend
def test_trials_of_a_sweep_trace_a_graph_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of a network whose graph another trial has written differ in their variables only."""
    import keras
    import tensorflow as tf

    from tnt_exp import model
    from tnt_exp.export.portable import savedmodel

    images = np.random.default_rng(0).integers(0, 256, (3, 10, 12, 1)).astype(np.uint8)
    graphs = tmp_path / "graphs"
    graphs.mkdir()
    monkeypatch.setenv(GRAPHS, str(graphs))
    saved, save, run = list[str](), tf.saved_model.save, subprocess.run
    if keras.backend.backend() == "tensorflow":
        monkeypatch.setattr(tf.saved_model, "save", lambda *given, **how: (saved.append(given[1]), save(*given, **how)))
    else:  # another process traces it
        monkeypatch.setattr(
            subprocess, "run", lambda *given, **how: (saved.append(given[0][-1]), run(*given, **how))[1]
        )
    for name, depth, seed in (("first", 1, 0), ("second", 1, 1), ("deeper", 2, 1)):
        classifier = model.build(compose(["model=tiny", f"model.depth={depth}"]).model, 10, 1, seed=seed)
        graph = writers._shared_graph(classifier)
        assert graph is not None
        theirs = graphs / f".part.{graph.name}"  # of a trial that writes the same
        theirs.touch()
        savedmodel(classifier, (8, 8, 1), tmp_path / name)
        assert theirs.exists()
        theirs.unlink()
        served = tf.saved_model.load(str(tmp_path / name)).signatures["serving_default"](images=tf.constant(images))
        logits = keras.ops.convert_to_numpy(classifier(images))
        np.testing.assert_allclose(served["logits"], logits, atol=1e-5)
    assert [Path(folder).name for folder in saved] == ["first", "deeper"]
    assert len(list(graphs.iterdir())) == 2
    hashes = [tf.saved_model.experimental.read_fingerprint(str(tmp_path / name)) for name in ("first", "second")]
    assert hashes[0].graph_def_program_hash == hashes[1].graph_def_program_hash
    assert hashes[0].checkpoint_hash != hashes[1].checkpoint_hash


def test_savedmodel_takes_images_of_any_size(exported: tuple[Path, str], images: np.ndarray) -> None:
    program = (
        "import sys, numpy as np, tensorflow as tf;"
        "serve = tf.saved_model.load('.').signatures['serving_default'];"
        "answer = serve(images=tf.zeros((3, 20, 31, 1), tf.uint8));"
        "print(answer['logits'].shape, np.allclose(answer['probabilities'].numpy().sum(axis=1), 1));"
        "print('tnt_exp' in sys.modules)"
    )
    # From within its folder: TensorFlow takes the brackets in this path for a pattern.
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=exported[0] / "savedmodel", capture_output=True, text=True)
    assert done.stdout == "(3, 10) True\nFalse\n", done.stderr


def test_a_model_that_says_something_else_is_refused(exported: tuple[Path, str], images: np.ndarray) -> None:
    with pytest.raises(UserError, match="difference"):
        verify_export("litert", exported[0] / "litert", images, np.zeros((32, 10), np.float32))


def test_onnx_says_what_to_install(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else found(name))
    assert main(["export", str(run_folder), "format=onnx"]) == 2
    error = capsys.readouterr().err
    assert "pip install 'tnt-exp[onnx]'" in error
    assert len(error.splitlines()) == 1


def test_onnx_runtime_reads_what_is_written_for_it(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(run_folder), "format=onnx", f"output={tmp_path / 'out'}"]) == 0, capsys.readouterr().err
    import onnxruntime

    session = onnxruntime.InferenceSession(tmp_path / "out/onnx/model.onnx")
    assert json.loads(session.get_modelmeta().custom_metadata_map["labels"]) == LABELS
    assert session.run(None, {"images": np.zeros((7, 8, 8, 1), np.uint8)})[0].shape == (7, 10)


# What the presets do not vary among themselves.
ONNX_VARIANTS = {
    "plain": [],
    "full_heads_with_bias": ["model.head_width=full", "model.qkv_bias=true"],
    "narrow_heads_with_bias": ["model.num_heads=4", "model.inner_num_heads=4", "model.qkv_bias=true"],
    "some_inner_blocks": ["model.inner_blocks=[2]", "model.pool=sequence", "model.representation_size=24"],
    "no_positions": ["model.pixel_position=false", "model.patch_position=false", "model.pool=average"],
    "cropped": ["model.crop_fraction=0.8", "model.interpolation=bicubic", "model.std=[0.2,0.3,0.4]"],
}


@pytest.mark.parametrize("variant", ONNX_VARIANTS)
@pytest.mark.parametrize("preset", ["tiny", "cifar_small", "tnt_ti", "tnt_s_legacy", "keras_example"])
def test_onnx_graph_computes_what_the_model_does(preset: str, variant: str, tmp_path: Path) -> None:
    from tnt_exp import model
    from tnt_exp.export import onnx_graph, runtime

    sizes = ["model.image_size=16", "model.patch_size=8", "model.stride=4", "model.depth=2"]
    sizes += ["model.embed_dim=48", "model.inner_dim=12"]
    classifier = model.build(
        compose(["dataset=cifar10", f"model={preset}", *sizes, *ONNX_VARIANTS[variant]]).model, 10, 3
    )
    rng = np.random.default_rng(0)
    for variable in classifier.network.trainable_variables:  # biases, scales and positions begin as constants
        variable.assign(np.asarray(variable) + 0.2 * rng.standard_normal(variable.shape).astype(np.float32))
    onnx_graph.write(classifier, {"input": {"shape": [None, 20, 27, 3]}, "labels": LABELS}, tmp_path / "model.onnx")
    images = rng.integers(0, 256, (3, 20, 27, 3), dtype=np.uint8)
    wanted = np.asarray(classifier(images))
    np.testing.assert_allclose(runtime.onnx(tmp_path)(images), wanted, atol=2e-5 * np.abs(wanted).max())


def test_int8_is_smaller_and_its_accuracy_is_measured(
    run_folder: Path,
    tmp_path: Path,
    result: dict,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings, level = ["format=onnx", f"output={tmp_path}"], logging.getLogger().level
    assert main(["export", str(run_folder), *settings]) == 0
    assert main(["export", str(run_folder), *settings, "quantize=int8"]) == 0
    assert (caplog.text, logging.getLogger().level) == ("", level)  # no advice of ONNX Runtime
    assert "accuracy on 359 test images: 0." in capsys.readouterr().out
    float32, int8 = (tmp_path / name / "model.onnx" for name in ("onnx", "onnx_int8"))
    assert int8.stat().st_size < float32.stat().st_size
    accuracy = json.loads((int8.parent / "metadata.json").read_text())["quantization"]
    assert accuracy["images"] == 359
    assert accuracy["float32"] == pytest.approx(result["metrics"]["test/accuracy"])
    assert accuracy["int8"] == pytest.approx(accuracy["float32"], abs=0.02)
    kernels = {tensor.data_type for tensor in onnx.load(int8).graph.initializer if len(tensor.dims) == 2}
    assert onnx.TensorProto.INT8 in kernels


# timm imports torchvision, of which the CPU wheel may lack its operators: two names are enough.
_OPERATORS = """
import sys
class Operators:
    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            import contextlib, torch
            sys.torchvision_library = torch.library.Library("torchvision", "DEF")
            for operator in (
                "nms(Tensor dets, Tensor scores, float iou) -> Tensor",
                "qnms(Tensor a, Tensor b, float c) -> Tensor",
            ):
                with contextlib.suppress(RuntimeError):
                    sys.torchvision_library.define(operator)
sys.meta_path.insert(0, Operators())
"""


@pytest.mark.peers
def test_timm_reads_what_is_written_for_it(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sitecustomize.py").write_text(_OPERATORS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert main(["export", str(run_folder), "format=timm", f"output={tmp_path / 'out'}"]) == 0, capsys.readouterr().err
    about = json.loads((tmp_path / "out/timm/metadata.json").read_text())
    assert about["preprocessing"]["inside"] is False
    config = json.loads((tmp_path / "out/timm/config.json").read_text())
    assert config["pretrained_cfg"]["label_names"] == LABELS
    assert config["pretrained_cfg"]["input_size"] == [1, 8, 8]


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        (["format=tflite"], "litert"),
        (["output=x"], "format"),
        (["format=keras", "model.depth=3"], "model.depth"),
        (["format=litert", "quantize=int8"], "format=onnx"),
        (["format=onnx", "quantize=int4"], "quantize=int8 with format=onnx, received quantize=int4"),
        (["format=keras", "dataset=npz"], "dataset.path"),
        (["format=keras", "dataset=cifar10"], "channels"),
    ],
)
def test_bad_input_ends_before_anything_slow(run_folder: Path, settings: list[str], word: str) -> None:
    done = with_slow_imports_printed("export", str(run_folder), *settings)
    assert (done.returncode, done.stdout) == (2, "[]\n"), done.stderr
    assert word in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_folder_that_is_no_export_is_not_replaced(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "keras/mine.py"
    file.parent.mkdir()
    file.touch()
    assert main(["export", str(run_folder), "format=litert,keras", f"output={tmp_path}"]) == 2
    assert f"expected no {file.parent} but an earlier export" in capsys.readouterr().err
    assert [*tmp_path.iterdir(), *file.parent.iterdir()] == [file.parent, file]


@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated")
def test_litert_has_a_named_signature_for_any_number_of_images(exported: tuple[Path, str]) -> None:
    import tensorflow as tf

    folder = exported[0] / "litert"
    interpreter = tf.lite.Interpreter(str(folder / "model.tflite"))
    assert interpreter.get_signature_list() == {"serving_default": {"inputs": ["images"], "outputs": ["logits"]}}
    shape = json.loads((folder / "metadata.json").read_text())["input"]["shape"]
    there = interpreter.get_input_details()[0]["shape_signature"]
    assert [-1 if size is None else size for size in shape] == list(there)
    serve = interpreter.get_signature_runner("serving_default")
    for count in (1, 3):
        assert serve(images=np.zeros((count, 8, 8, 1), np.uint8))["logits"].shape == (count, 10)


def test_the_example_beside_each_export_classifies_files(
    exported: tuple[Path, str], run_folder: Path, images: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [str(tmp_path / f"{number}.png") for number in range(4)]
    for file, image in zip(files, images, strict=False):
        Image.fromarray(image[:, :, 0]).save(file)
    picture, orientation = Image.fromarray(images[4, :, :, 0]), Image.Exif()
    orientation[274] = 6  # turned
    files += [str(tmp_path / name) for name in ("turned.png", "16bit.png", "16bit.tif", "large.jpg")]
    picture.save(files[4], exif=orientation)
    for file in files[5:7]:
        Image.fromarray(images[5, :, :, 0].astype(np.uint16) * 257).save(file)
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    Image.fromarray(noise).save(files[7], exif=orientation)
    assert main(["predict", str(run_folder), *files, "--json"]) == 0
    wanted = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for name in ("keras", "safetensors", "savedmodel", "litert"):
        path = exported[0] / name / "example.py"
        done = subprocess.run([sys.executable, "-P", str(path), *files], cwd=tmp_path, capture_output=True, text=True)
        answers = [line.split() for line in done.stdout.splitlines()]
        assert [answer[:2] for answer in answers] == [[each["file"], each["class"]] for each in wanted], done.stderr
        for answer, each in zip(answers, wanted, strict=True):
            assert float(answer[2]) == pytest.approx(each["probability"], abs=2e-4)


def test_a_model_of_a_run_is_loaded_by_keras_once_the_layers_are_imported(run_folder: Path, images: np.ndarray) -> None:
    program = (
        "import sys, keras; from tnt_exp.model import Classifier;"
        "model = keras.saving.load_model(sys.argv[1]);"
        "print(type(model).__name__, model.class_names[:2])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(run_folder / "model.keras")], capture_output=True, text=True
    )
    assert done.stdout == "Classifier ('0', '1')\n", done.stderr
