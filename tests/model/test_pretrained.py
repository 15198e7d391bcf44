"""Weight files of timm and huawei-noah: read whole or not at all, written so that timm reads them."""

import importlib.util
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from keras import ops
from safetensors.numpy import load_file, save_file

from tnt_exp.errors import UserError
from tnt_exp.model import TNT
from tnt_exp.model.preprocess import interpolation_matrix
from tnt_exp.model.pretrained import HUAWEI, load_weights, save_timm, weight_mappings

_spec = importlib.util.spec_from_file_location("record_timm", Path(__file__).with_name("record_timm.py"))
record = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(record)
REFERENCE = json.loads(record.FILE.read_text())
LEGACY = {"stem": "image", "fusion": "pixel_norm_dense"}
KINDS = {"current": {}, "current_qkv_bias": {"qkv_bias": True}, "legacy": LEGACY}


def _tensors(kind="current"):
    return record.tensors(REFERENCE["networks"][kind]["tensors"])


def _values(network):
    return [np.asarray(ops.convert_to_numpy(variable)) for variable in network.trainable_variables]


@pytest.fixture
def file(tmp_path):
    """Write tensors to a .safetensors file."""

    def write(tensors, name="weights.safetensors"):
        save_file({key: np.ascontiguousarray(value) for key, value in tensors.items()}, tmp_path / name)
        return tmp_path / name

    return write


@pytest.mark.backend
@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_recorded_from_timm(small, file, kind):
    network = small(**KINDS[kind])
    assert load_weights(network, file(_tensors(kind))) == []
    expected = np.array(REFERENCE["networks"][kind]["logits"])
    received = ops.convert_to_numpy(network(ops.convert_to_tensor(record.images())))
    assert np.abs(received - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("kind", KINDS)
def test_there_and_back_is_bit_equal(small, file, tmp_path, kind):
    network, other = small(**KINDS[kind]), small(**KINDS[kind], seed=1)
    load_weights(network, file(_tensors(kind)))
    save_timm(network, tmp_path / "back.safetensors")
    back = load_file(tmp_path / "back.safetensors")
    assert back.keys() == _tensors(kind).keys()
    for name, tensor in _tensors(kind).items():
        np.testing.assert_array_equal(back[name], tensor, err_msg=name)
    load_weights(other, tmp_path / "back.safetensors")
    for one, same in zip(_values(network), _values(other), strict=True):
        np.testing.assert_array_equal(one, same)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_every_weight_is_mapped_once(small):
    for options in KINDS.values():
        network = small(**options)
        mapped = [mapping.variable.path for mapping in weight_mappings(network)]
        assert sorted(mapped) == sorted(variable.path for variable in network.trainable_variables)


def _huawei(tensors):
    """The same weights as huawei-noah names and lays them out."""
    back = {new: old for old, new in HUAWEI.items()}
    named = {".".join(back.get(part, part) for part in name.split(".")): value for name, value in tensors.items()}
    positions = named["inner_pos"]
    named["inner_pos"] = positions.reshape(1, positions.shape[1], -1).transpose(0, 2, 1)
    return named | {"outer_tokens": np.zeros((1, 9, 24), "float32")}


def test_names_of_huawei_noah(small, file):
    network, other = small(), small(seed=1)
    load_weights(network, file(_tensors()))
    tensors = _huawei(_tensors())
    assert "blocks.0.outer_norm2.weight" in tensors
    load_weights(other, file(tensors))
    for one, same in zip(_values(network), _values(other), strict=True):
        np.testing.assert_array_equal(one, same)


def test_blocks_without_inner_transformer(small, file):
    """huawei-noah's code has them, under the same names."""
    tensors = {
        name: value
        for name, value in _tensors().items()
        if not name.startswith("blocks.0.") or any(part in name for part in ("_out", "norm_mlp.", ".mlp."))
    }
    load_weights(small(inner_blocks=(2,)), file(_huawei(tensors)))
    with pytest.raises(UserError, match=r"blocks\.0\.norm_in\.weight: expected 6, missing"):
        load_weights(small(), file(tensors))


def test_other_classes_get_a_new_head(small, file):
    network = small(num_classes=7)
    before = np.asarray(ops.convert_to_numpy(network.head.kernel))
    notes = load_weights(network, file(_tensors()))
    assert notes == ["head: the file has 5 classes, so the head keeps its initial weights"]
    np.testing.assert_array_equal(ops.convert_to_numpy(network.head.kernel), before)
    gamma = np.asarray(ops.convert_to_numpy(network.norm.gamma))
    np.testing.assert_array_equal(gamma, _tensors()["norm.weight"])


@pytest.mark.parametrize("case", REFERENCE["positions"], ids=lambda case: f"{case['old']}-{case['new']}")
def test_positions_are_resampled_as_timm_does(case):
    old, new = case["old"], case["new"]
    grid = record.positions(old)[0, 1:].reshape(old, old, 2)
    matrix = interpolation_matrix(old, new, "bicubic")
    received = np.einsum("ih,jw,hwd->ijd", matrix, matrix, grid).reshape(-1, 2)
    np.testing.assert_allclose(received, np.array(case["values"])[0, 1:], atol=1e-5)


@pytest.mark.parametrize("image_size", [40, 16])
def test_other_image_sizes_resample_positions(small, file, image_size):
    network = small(image_size=image_size)
    grid = image_size // 8
    notes = load_weights(network, file(_tensors()))
    assert notes == [f"patch positions: resampled from 3x3 to {grid}x{grid} patches"]
    received = np.asarray(ops.convert_to_numpy(network.patch_embedding.positions))
    matrix = interpolation_matrix(3, grid, "bicubic")
    old = _tensors()["patch_pos"][0]
    np.testing.assert_array_equal(received[0], old[0])  # the class token's
    expected = np.einsum("ih,jw,hwd->ijd", matrix, matrix, old[1:].reshape(3, 3, 24)).reshape(-1, 24)
    np.testing.assert_allclose(received[1:], expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_half_precision_is_widened(small, file, kind):
    import ml_dtypes

    half = np.dtype(getattr(ml_dtypes, kind, kind))
    network = small()
    load_weights(network, file({name: value.astype(half) for name, value in _tensors().items()}))
    expected = _tensors()["norm.weight"].astype(half).astype("float32")
    np.testing.assert_array_equal(ops.convert_to_numpy(network.norm.gamma), expected)


def test_every_misfit_is_named_and_nothing_is_loaded(small, file):
    tensors = _tensors()
    del tensors["norm.weight"]
    tensors["blocks.1.mlp.fc9.bias"] = np.zeros(3, "float32")
    tensors["proj.weight"] = tensors["proj.weight"].T
    tensors["blocks.0.proj.weight"] = tensors["blocks.0.proj.weight"].astype("float64")
    network = small()
    before = _values(network)
    with pytest.raises(UserError) as caught:
        load_weights(network, file(tensors))
    assert str(caught.value).splitlines()[1:] == [
        "blocks.0.proj.weight: expected float32 or float16 or bfloat16, received float64.",
        "blocks.1.mlp.fc9.bias: received 3, not expected.",
        "norm.weight: expected 24, missing.",
        "proj.weight: expected 24x96, received 96x24.",
    ]
    for one, same in zip(before, _values(network), strict=True):
        np.testing.assert_array_equal(one, same)


_CORRUPTIONS = st.sampled_from(["drop", "rename", "add", "shape", "dtype", "twice"])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(_CORRUPTIONS, st.integers(0, 10_000)), min_size=1, max_size=4), st.booleans())
def test_corrupted_files_are_refused_whole(victim, file, corruptions, huawei):
    """Whatever is done to a file: one message that names each tensor, and not one weight has moved."""
    tensors = _huawei(_tensors()) if huawei else _tensors()
    whole, touched = sorted(tensors.keys() - {"outer_tokens"}), set()
    for kind, number in corruptions:
        name = whole.pop(number % len(whole))
        if name.startswith("head.") and kind == "shape":
            continue  # a head of another shape may be one of other classes
        if kind == "add":
            tensors[f"{name}.more"] = np.zeros(2, "float32")
            touched.add(f"{name}.more")
        elif kind == "twice":
            tensors[f"{name}."] = tensors[name]
            touched.add(f"{name}.")
        elif kind == "shape":
            tensors[name] = tensors[name][None]
            touched.add(name)
        elif kind == "dtype":
            tensors[name] = tensors[name].astype("int32" if number % 2 else "float64")
            touched.add(name)
        else:
            value = tensors.pop(name)
            touched.add(name)
            if kind == "rename":
                tensors[f"x{name}"] = value
                touched.add(f"x{name}")
    if not touched:
        return
    with pytest.raises(UserError) as caught:
        load_weights(victim.network, file(tensors))
    for name in touched:
        renamed = ".".join(HUAWEI.get(part, part) for part in name.split("."))
        assert f"\n{renamed}: " in str(caught.value)
    assert victim.untouched()


def _refusal(network, path):
    try:
        load_weights(network, path)
    except UserError as error:
        return str(error)
    return None


class _Victim:
    """A network whose weights no bad file may touch."""

    def __init__(self):
        sizes = {"image_size": 24, "stride": 2, "depth": 2, "embed_dim": 24, "inner_dim": 6}
        self.network = TNT(5, **sizes, num_heads=4, inner_num_heads=3)
        self.before = _values(self.network)

    def untouched(self):
        return all(np.array_equal(one, same) for one, same in zip(self.before, _values(self.network), strict=True))

    def restore(self):
        for variable, value in zip(self.network.trainable_variables, self.before, strict=True):
            variable.assign(value)


@pytest.fixture(scope="module")
def victim():
    return _Victim()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_bytes_are_refused_or_harmless(victim, file, data):
    """Cut short, or with bytes changed: a clear message, or (bits of a number changed) a file like any other."""
    path = file(_tensors())
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        header = 8 + int.from_bytes(content[:8], "little")
        for _ in range(data.draw(st.integers(1, 3))):
            content[data.draw(st.integers(0, header - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    message = _refusal(victim.network, path)
    if message is None:
        victim.restore()
    assert message is None or str(path) in message
    assert victim.untouched()


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"stem": "image"}, "model.stem, model.fusion"),
        ({"fusion": "norm_dense"}, "model.stem, model.fusion"),
        ({"head_width": "full"}, "model.head_width"),
        ({"pool": "average"}, "model.pool"),
        ({"pixel_position": False}, "model.pixel_position"),
        ({"patch_position": False}, "model.patch_position"),
        ({"pixel_projection": True}, "model.pixel_projection"),
        ({"patch_projection": True}, "model.patch_projection"),
        ({"representation_size": 3}, "model.representation_size"),
    ],
)
def test_networks_that_were_never_published(small, file, tmp_path, options, key):
    network = small(**options)
    with pytest.raises(UserError, match=f"\n{key}: expected"):
        load_weights(network, file(_tensors()))
    with pytest.raises(UserError, match=f" {key}: expected"):
        save_timm(network, tmp_path / "out.safetensors")


@pytest.mark.parametrize(
    ("options", "key"), [({"inner_blocks": (2,)}, "inner_blocks"), ({"mlp_ratio": 2.0}, "mlp_ratio")]
)
def test_networks_that_timm_has_not(small, tmp_path, options, key):
    with pytest.raises(UserError, match=f"model.{key}: expected"):
        save_timm(small(**options), tmp_path / "out.safetensors")


def test_missing_file_and_other_kinds(small, tmp_path):
    with pytest.raises(UserError, match="found none"):
        load_weights(small(), tmp_path / "none.safetensors")
    (tmp_path / "weights.h5").write_bytes(b"x")
    with pytest.raises(UserError, match="another kind of file"):
        load_weights(small(), tmp_path / "weights.h5")
    with pytest.raises(UserError, match=r"ends in \.safetensors"):
        save_timm(small(), tmp_path / "out.pth")
    with pytest.raises(UserError, match="can be written to"):
        save_timm(small(), tmp_path / "none" / "out.safetensors")


@pytest.mark.peers
class TestPyTorchFiles:
    """Files that PyTorch wrote: tensors are read, code is not run."""

    @pytest.fixture
    def pth(self, tmp_path):
        import torch

        def write(content, name="weights.pth"):
            torch.save(content, tmp_path / name)
            return tmp_path / name

        return write

    @pytest.fixture
    def state(self):
        import torch

        return {name: torch.from_numpy(value) for name, value in _tensors().items()}

    @pytest.mark.parametrize("name", ["weights.pth", "weights.pt", "weights.bin", "weights.pth.tar"])
    def test_plain_wrapped_and_distributed(self, small, file, pth, state, name):
        expected = small()
        load_weights(expected, file(_tensors()))
        distributed = {f"module.{key}": value for key, value in state.items()}
        for content in (state, {"state_dict": state, "epoch": 3}, {"model": distributed}):
            network = small(seed=1)
            assert load_weights(network, pth(content, name)) == []
            for one, same in zip(_values(expected), _values(network), strict=True):
                np.testing.assert_array_equal(one, same)

    def test_half_precision(self, small, pth, state):
        import torch

        network = small()
        load_weights(network, pth({key: value.to(torch.bfloat16) for key, value in state.items()}))
        expected = state["norm.weight"].to(torch.bfloat16).to(torch.float32).numpy()
        np.testing.assert_array_equal(ops.convert_to_numpy(network.norm.gamma), expected)

    def test_code_is_not_run(self, small, pth, state, tmp_path):
        with pytest.raises(UserError, match="would run code"):
            load_weights(small(), pth({**state, "x": _Touch(tmp_path / "ran")}))
        assert not (tmp_path / "ran").exists()

    def test_other_contents(self, small, pth):
        with pytest.raises(UserError, match="expected named tensors"):
            load_weights(small(), pth([1, 2]))
        with pytest.raises(UserError, match="expected named tensors"):
            load_weights(small(), pth({"epoch": 3}))

    @settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    def test_damaged_files(self, victim, pth, state, data):
        path = pth(state)
        content = path.read_bytes()
        path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
        with pytest.raises(UserError):
            load_weights(victim.network, path)
        assert victim.untouched()

    def test_timm_reads_what_was_written(self, timm, small, tmp_path):
        from timm.models import load_checkpoint
        from timm.models.tnt import TNT

        network = small()
        save_timm(network, tmp_path / "ours.safetensors")
        model = TNT(**record.OPTIONS).eval()
        load_checkpoint(model, str(tmp_path / "ours.safetensors"))
        import torch

        with torch.no_grad():
            expected = model(torch.from_numpy(record.images().transpose(0, 3, 1, 2))).numpy()
        np.testing.assert_allclose(ops.convert_to_numpy(network(record.images())), expected, atol=1e-5)

    def test_positions_from_224_to_384(self, timm):
        import torch
        from timm.layers import resample_abs_pos_embed

        old = np.random.default_rng(0).normal(size=(1, 197, 384)).astype("float32")
        expected = resample_abs_pos_embed(torch.from_numpy(old), [24, 24]).numpy()[0, 1:]
        matrix = interpolation_matrix(14, 24, "bicubic")
        received = np.einsum("ih,jw,hwd->ijd", matrix, matrix, old[0, 1:].reshape(14, 14, 384), optimize=True)
        np.testing.assert_allclose(received.reshape(-1, 384), expected, atol=1e-4)


class _Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_pickles_are_not_opened(small, tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(pickle.dumps(_Touch(tmp_path / "ran")))
    with pytest.raises(UserError, match="damaged"):
        load_weights(small(), path)
    assert not (tmp_path / "ran").exists()
