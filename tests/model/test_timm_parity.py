"""timm's networks of real size, with random weights, against ours with the same: logits, gradients, positions."""

import keras
import numpy as np
import pytest
from keras import ops

from tnt_exp.model import build
from tnt_exp.model.pretrained import load_weights, save_timm

pytestmark = pytest.mark.peers

PRESETS = {
    "tnt_s": "tnt_s_patch16_224",
    "tnt_s_legacy": "tnt_s_legacy_patch16_224",
    "tnt_b": "tnt_b_patch16_224",
}


# The largest has no layer that the others lack: on TensorFlow alone.
@pytest.fixture(
    scope="module",
    params=["tnt_b", *(pytest.param(name, marks=pytest.mark.backend) for name in ("tnt_s", "tnt_s_legacy"))],
)
def pair(request, timm, tmp_path_factory):
    """timm's network with all weights random, ours with the same, and random images."""
    import torch
    from safetensors.torch import save_file

    theirs = timm.create_model(PRESETS[request.param], num_classes=10).eval()
    torch.manual_seed(0)
    with torch.no_grad():  # norms and biases too, which start at one and zero
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    path = tmp_path_factory.mktemp("weights") / "timm.safetensors"
    save_file(theirs.state_dict(), path)
    from tnt_exp.config.compose import compose

    network = build(compose([f"model={request.param}"]).model, 10, 3).network
    assert load_weights(network, path) == []
    images = np.random.default_rng(0).normal(size=(2, 224, 224, 3)).astype("float32")
    return theirs, network, images, path


def _compiled(network, images):
    if keras.backend.backend() == "jax":
        import jax

        def pure(values, x):
            with keras.StatelessScope(state_mapping=list(zip(network.variables, values, strict=True))):
                return network(x)

        return jax.jit(pure)([v.value for v in network.variables], images)
    return network(ops.convert_to_tensor(images))


def _theirs(model, images):
    import torch

    return model(torch.from_numpy(images.transpose(0, 3, 1, 2)))


def test_logits(pair):
    theirs, network, images, _ = pair
    expected = _theirs(theirs, images).detach().numpy()
    received = ops.convert_to_numpy(_compiled(network, images))
    assert np.abs(received - expected).max() <= 1e-4 * np.abs(expected).max()


def test_gradients(pair, gradients):
    theirs, network, images, _ = pair
    weights = np.random.default_rng(1).normal(size=(2, 10)).astype("float32")
    import torch

    theirs.zero_grad()
    (_theirs(theirs, images) * torch.from_numpy(weights)).sum().backward()
    _, found = gradients(network, lambda: ops.sum(ops.multiply(network(ops.convert_to_tensor(images)), weights)))
    found = {v.path: g for v, g in zip(network.trainable_variables, found, strict=True)}
    last = theirs.blocks[-1]
    for path, expected in {
        "tnt/pixel_embedding/kernel": theirs.pixel_embed.proj.weight.grad.permute(2, 3, 1, 0),
        "tnt/pixel_embedding/bias": theirs.pixel_embed.proj.bias.grad,
        "tnt/block_12/inner/attention/projection_kernel": last.attn_in.proj.weight.grad.T,
        "tnt/block_12/fusion/kernel": last.proj.weight.grad.T,
        "tnt/block_12/outer/attention/qkv_kernel": torch.cat(
            [last.attn_out.qk.weight.grad, last.attn_out.v.weight.grad]
        ).T,
        "tnt/block_12/outer/mlp/expand_kernel": last.mlp.fc1.weight.grad.T,
        "tnt/block_12/outer/mlp_norm/gamma": last.norm_mlp.weight.grad,
    }.items():
        expected = expected.numpy()
        assert np.abs(found[path] - expected).max() <= 1e-3 * np.abs(expected).max(), path


def test_there_and_back_is_bit_equal(pair, tmp_path):
    _, network, _, path = pair
    save_timm(network, tmp_path / "back.safetensors")
    from safetensors.numpy import load_file

    expected, received = load_file(path), load_file(tmp_path / "back.safetensors")
    assert expected.keys() == received.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(received[name], tensor, err_msg=name)
