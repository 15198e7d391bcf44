"""Convert a Keras file to ONNX with PyTorch: `python -m tnt_exp.export.onnx_by_torch SOURCE METADATA TARGET`.

TensorFlow's own converter needs a protobuf that TensorFlow 2.21 refuses. Runs with KERAS_BACKEND=torch.
"""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import onnx  # type: ignore[import-not-found,unused-ignore]
import torch

from tnt_exp import model
from tnt_exp.atomic_files import JsonObject

if TYPE_CHECKING:
    from tnt_exp.model.classifier import Classifier


class _Serve(torch.nn.Module):
    def __init__(self, classifier: "Classifier") -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(images)
        return logits


def convert(source: Path, metadata: JsonObject, target: Path) -> None:
    """Write images uint8 (batch, H, W, channels) -> logits float32 (batch, classes), for batches of any size."""
    serve = _Serve(model.load(source)).eval()
    images = torch.zeros((2, *metadata["input"]["shape"][1:]), dtype=torch.uint8)
    torch.onnx.export(
        serve,
        (images,),
        str(target),
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    exported = onnx.load(target)
    onnx.helper.set_model_props(exported, {"labels": json.dumps(metadata["labels"]), "metadata": json.dumps(metadata)})
    onnx.save(exported, target)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text()), Path(sys.argv[3]))
