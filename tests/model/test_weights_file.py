"""A model as one .safetensors file: built again with the same logits, and weights to start another model from."""

from pathlib import Path

import numpy as np
import pytest
from keras import ops

from tnt_exp.config.compose import compose
from tnt_exp.errors import UserError
from tnt_exp.model import Classifier, build, load, weights_file
from tnt_exp.model.classifier import save_weights
from tnt_exp.model.preprocess import interpolation_matrix
from tnt_exp.model.pretrained import load_weights

_NAMES = ("cat", "dog", "bird")
_MODEL = ["model=tiny", "model.stem=image", "model.pool=sequence"]


def _classifier(*overrides: str, names: tuple[str, ...] = _NAMES, seed: int = 1) -> Classifier:
    config = compose([*_MODEL, *overrides]).model
    return build(config, len(names), 3, class_names=names, seed=seed)


def _values(classifier: Classifier) -> dict[str, np.ndarray]:
    return {weight.path: np.asarray(ops.convert_to_numpy(weight)) for weight in classifier.network.trainable_weights}


@pytest.mark.backend
def test_a_file_holds_the_whole_model(tmp_path: Path) -> None:
    classifier = _classifier("model.mean=[0.2]", "model.crop_fraction=0.9", "model.inner_blocks=[1]")
    save_weights(classifier, tmp_path / "model.safetensors")
    again = load(tmp_path / "model.safetensors")
    assert again.class_names == _NAMES
    images = np.random.default_rng(0).integers(0, 256, (2, 13, 11, 3), np.uint8)
    np.testing.assert_array_equal(
        ops.convert_to_numpy(again(images)), ops.convert_to_numpy(classifier(images)), strict=True
    )
    assert weights_file.read_header(tmp_path / "model.safetensors")["network"]["channels"] == 3


@pytest.mark.parametrize("kind", ["model.safetensors", "model.keras", "folder"])
def test_other_classes_begin_with_a_new_head(tmp_path: Path, kind: str) -> None:
    old, new = _classifier(), _classifier(names=("a", "b"), seed=2)
    if kind == "model.safetensors":
        save_weights(old, tmp_path / kind)
    else:
        old.save(tmp_path / "model.keras")
    initial = _values(new)
    file = weights_file.find_weights(str(tmp_path / kind.replace("folder", "")))
    notes = load_weights(new.network, load(file).network if file.suffix == ".keras" else file)
    assert notes == ["head: the file has 3 classes, so the head keeps its initial weights"]
    for path, value in _values(new).items():
        expected = initial[path] if "/head/" in path else _values(old)[path]
        np.testing.assert_array_equal(value, expected, err_msg=path)


def test_positions_of_another_image_size_are_resampled(tmp_path: Path) -> None:
    old, new = _classifier(), _classifier("model.image_size=16", seed=2)
    save_weights(old, tmp_path / "model.safetensors")
    (note,) = load_weights(new.network, tmp_path / "model.safetensors")
    before, after = old.network.config.grid, new.network.config.grid
    assert note == f"patch positions: resampled from {before}x{before} to {after}x{after} patches"
    grid = np.asarray(ops.convert_to_numpy(old.network.patch_embedding.positions)).reshape(before, before, -1)
    matrix = interpolation_matrix(before, after, "bicubic")
    expected = np.stack([matrix @ grid[..., i] @ matrix.T for i in range(grid.shape[-1])], axis=-1)
    received = np.asarray(ops.convert_to_numpy(new.network.patch_embedding.positions))
    np.testing.assert_allclose(received, expected.reshape(received.shape), atol=1e-6)


def test_another_network_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    save_weights(_classifier(), tmp_path / "model.safetensors")
    other = _classifier("model.depth=3", seed=2)
    initial = _values(other)
    with pytest.raises(UserError, match=r"block_3/outer/attention/qkv_kernel: expected \d+x\d+, missing"):
        load_weights(other.network, tmp_path / "model.safetensors")
    for path, value in _values(other).items():
        np.testing.assert_array_equal(value, initial[path])


def test_damaged_and_foreign_files_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_weights(_classifier(), file)
    whole = file.read_bytes()
    for damaged in (whole[:-1], whole[:100], b"", whole.replace(b"patch_size", b"patch_sise")):
        file.write_bytes(damaged)
        with pytest.raises(UserError, match=r"model\.safetensors: expected"):
            load(file)
    weights_file.write_state_dict(file, {"x": np.zeros(2, np.float32)})
    with pytest.raises(UserError, match="received weights alone"):
        load(file)
    with pytest.raises(UserError, match=r"model\.weights=nowhere: expected .*found none at nowhere"):
        weights_file.find_weights("nowhere")
