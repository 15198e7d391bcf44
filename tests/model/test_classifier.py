"""The saved model: images in, logits out, the same in a new process."""

import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops

from tnt_exp.errors import UserError
from tnt_exp.model import Classifier, Preprocess, build, load

READ = """
import sys
import keras, numpy as np
from tnt_exp.model import Classifier, load
from tnt_exp.training.device import without_packages
for number, read in enumerate((keras.saving.load_model, load)):
    model = read(sys.argv[1])
    np.save(f"{sys.argv[3]}{number}.npy", keras.ops.convert_to_numpy(model(np.load(sys.argv[2]))))
with without_packages({"tensorflow"}):
    model.save(sys.argv[4])
print(keras.backend.backend() == "tensorflow", "tensorflow" in sys.modules)
print(",".join(model.class_names))
"""


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (3, 12, 10, 1)).astype("uint8")


@pytest.mark.backend
def test_a_new_process_reads_it_bit_equal(preset, images, tmp_path):
    names = tuple(f"class {number}" for number in range(10))
    model = build(preset("tiny", "model.inner_blocks=[2]"), 10, 1, class_names=names, seed=3)
    expected = ops.convert_to_numpy(model(images))
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "images.npy", images)
    files = [tmp_path / name for name in ("model.keras", "images.npy", "logits", "again.keras")]
    done = subprocess.run([sys.executable, "-c", READ, *files], capture_output=True, text=True, check=True)
    is_on_tensorflow = keras.backend.backend() == "tensorflow"
    assert done.stdout.splitlines()[-2:] == [f"{is_on_tensorflow} {is_on_tensorflow}", ",".join(names)]
    np.testing.assert_array_equal(ops.convert_to_numpy(load(tmp_path / "again.keras")(images)), expected)
    for number in range(2):
        np.testing.assert_array_equal(np.load(tmp_path / f"logits{number}.npy"), expected)


def test_preprocessing_goes_with_the_model(preset, tmp_path):
    config = preset(
        "tiny", "model.mean=[0.1]", "model.std=[0.3]", "model.interpolation=bicubic", "model.crop_fraction=0.8"
    )
    build(config, 4, 3).save(tmp_path / "model.keras")
    preprocess = load(tmp_path / "model.keras").preprocess
    assert (preprocess.image_size, preprocess.mean, preprocess.std) == (8, (0.1,), (0.3,))
    assert (preprocess.interpolation, preprocess.crop_fraction) == ("bicubic", 0.8)


def test_names_must_be_as_many_as_classes(small):
    with pytest.raises(ValueError, match="Expected as many class_names as classes, 5, received: 2 names"):
        Classifier(Preprocess(24), small(), class_names=("a", "b"))


def test_mean_must_fit_the_channels(preset):
    with pytest.raises(UserError, match="model: Expected mean to be one number or 1"):
        build(preset("tiny", "model.mean=[0.1,0.2,0.3]"), 10, 1)


def test_what_cannot_be_loaded(tmp_path):
    with pytest.raises(UserError, match="found no file"):
        load(tmp_path / "none.keras")
    (tmp_path / "text.keras").write_text("no model")
    with pytest.raises(UserError, match="cannot be read"):
        load(tmp_path / "text.keras")
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(tmp_path / "other.keras")
    with pytest.raises(UserError, match="received a Sequential"):
        load(tmp_path / "other.keras")


def test_a_cut_file_is_refused(preset, tmp_path):
    path = tmp_path / "model.keras"
    build(preset("tiny"), 10, 1).save(path)
    content = path.read_bytes()
    for part in (0.1, 0.5, 0.9, 0.99):
        path.write_bytes(content[: int(len(content) * part)])
        with pytest.raises(UserError, match="cannot be read"):
            load(path)


def test_the_package_imports_no_keras_before_it_is_needed():
    code = "import sys, tnt_exp.model; from tnt_exp.model import is_decayed; sys.exit('keras' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_unknown_names_are_refused():
    import tnt_exp.model

    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        tnt_exp.model.Nothing  # noqa: B018
    assert set(tnt_exp.model.__all__) >= {"TNT", "Classifier", "Preprocess", "build", "load"}
