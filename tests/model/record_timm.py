"""Record what timm's TNT answers, for tests on machines without PyTorch: python tests/model/record_timm.py

Two small networks of timm's two kinds get weights and images from NumPy's generator. The names and shapes of their
tensors, their logits, and positions that timm has resampled go into timm_reference.json beside this file.
"""

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np

FILE = Path(__file__).with_name("timm_reference.json")
OPTIONS = {
    "img_size": 24,
    "patch_size": 8,
    "first_stride": 2,
    "in_chans": 3,
    "num_classes": 5,
    "embed_dim": 24,
    "inner_dim": 6,
    "depth": 2,
    "num_heads_inner": 3,
    "num_heads_outer": 4,
}
KINDS = {"current": {}, "current_qkv_bias": {"qkv_bias": True}, "legacy": {"legacy": True}}
GRIDS = [(3, 5), (7, 4), (14, 24)]


def tensors(shapes: dict[str, list[int]]) -> dict[str, Any]:
    """Weights for tensors of these names and shapes, float32: the same on every machine."""
    random = np.random.default_rng(0)
    return {name: random.normal(0, 0.2, shapes[name]).astype("float32") for name in sorted(shapes)}


def images() -> Any:
    """Three normalised images (3, 24, 24, 3)."""
    return np.random.default_rng(1).normal(size=(3, 24, 24, 3)).astype("float32")


def positions(grid: int) -> Any:
    """Positions of a class token and grid x grid patches, (1, 1 + grid^2, 2)."""
    return np.random.default_rng(grid).normal(size=(1, 1 + grid**2, 2)).astype("float32")


def main() -> None:
    """Run timm and write the file."""
    import torch

    library = torch.library.Library("torchvision", "DEF")  # timm imports torchvision, whose operators may be missing
    for operator in ("nms(Tensor a, Tensor b, float c) -> Tensor", "qnms(Tensor a, Tensor b, float c) -> Tensor"):
        with contextlib.suppress(RuntimeError):
            library.define(operator)
    import timm
    from timm.layers import resample_abs_pos_embed
    from timm.models.tnt import TNT

    networks = {}
    for kind, options in KINDS.items():
        model = TNT(**OPTIONS, **options).eval()
        shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
        model.load_state_dict({name: torch.from_numpy(value) for name, value in tensors(shapes).items()})
        with torch.no_grad():
            logits = model(torch.from_numpy(images().transpose(0, 3, 1, 2)))
        networks[kind] = {"tensors": shapes, "logits": logits.tolist()}
    resampled = [
        {
            "old": old,
            "new": new,
            "values": resample_abs_pos_embed(torch.from_numpy(positions(old)), [new, new]).tolist(),
        }
        for old, new in GRIDS
    ]
    content = {"timm": timm.__version__, "networks": networks, "positions": resampled}
    FILE.write_text(json.dumps(_rounded(content)) + "\n")
    print(f"{FILE}: timm {timm.__version__}, {', '.join(networks)}")


def _rounded(value: Any) -> Any:
    """Floats to the seven digits that float32 has."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.7g}") if isinstance(value, float) else value


if __name__ == "__main__":
    main()
