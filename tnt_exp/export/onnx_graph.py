"""A classifier as an ONNX graph of standard operators, written from its weights: no framework converts it.

Each method is one layer of `tnt_exp.model`, at inference. Shapes as there: B batch, N patches per image, T tokens per
image, M pixel tokens per patch, C inner width, D outer width, H heads.
"""

import json
import math
import tempfile
from pathlib import Path

import keras
import numpy as np
import onnx  # type: ignore[import-not-found,unused-ignore]

from tnt_exp.atomic_files import JsonObject
from tnt_exp.model import Classifier
from tnt_exp.model.attention import Attention
from tnt_exp.model.blocks import Fusion, Transformer
from tnt_exp.model.embedding import WINDOW, PatchEmbedding, PixelEmbedding
from tnt_exp.model.layers import Norm, Pool
from tnt_exp.model.preprocess import Preprocess

_OPSET = 20  # the first one with Gelu
_IR_VERSION = 10  # the newest file format that ONNX Runtime 1.23 reads

Name = str  # of a tensor in the graph


def write(classifier: Classifier, metadata: JsonObject, file: Path) -> None:
    """Write images uint8 (B, height, width, channels) -> logits float32 (B, classes), for any number of images.

    Height, width and channels are those of `metadata["input"]["shape"]`; labels and metadata are among the properties.
    """
    _, height, width, channels = metadata["input"]["shape"]
    graph = _Graph()
    pixels = graph.preprocess(classifier.preprocess, height, width, channels)
    graph.add("Identity", graph.network(classifier, pixels), output="logits")
    images = onnx.helper.make_tensor_value_info("images", onnx.TensorProto.UINT8, ["batch", height, width, channels])
    shape = ["batch", classifier.network.config.num_classes]
    logits = onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, shape)
    model = onnx.helper.make_model(
        onnx.helper.make_graph(graph.nodes, "tnt", [images], [logits], graph.constants),
        opset_imports=[onnx.helper.make_opsetid("", _OPSET)],
        ir_version=_IR_VERSION,
    )
    onnx.helper.set_model_props(model, {"labels": json.dumps(metadata["labels"]), "metadata": json.dumps(metadata)})
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, file)


def write_int8(classifier: Classifier, metadata: JsonObject, images: np.ndarray, file: Path) -> None:
    """Write the same with products of int8: kernels are int8, tokens are rounded to it before each product.

    The scale of tokens is fixed by calibration `images`, uint8 (N, height, width, channels). Products of tokens with
    tokens have no zero points, since OpenVINO computes only those in int8.
    """
    from onnxruntime.quantization import QuantType, quantize_static  # type: ignore[import-not-found,unused-ignore]

    with tempfile.TemporaryDirectory() as temporary:
        write(classifier, metadata, source := Path(temporary) / "float32.onnx")
        graph = onnx.load(source).graph
        constants = {tensor.name for tensor in graph.initializer}
        products = [node for node in graph.node if node.op_type == "MatMul"]
        of_tokens = {name for node in products if constants.isdisjoint(node.input) for name in node.input}
        quantize_static(
            source,
            file,
            _Calibration(images),
            op_types_to_quantize=["MatMul", "Conv"],
            nodes_to_exclude=[node.name for node in products if node.input[0] in constants],  # these resize images
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options={
                "WeightSymmetric": True,
                "OpTypesToExcludeOutputQuantization": ["MatMul", "Conv"],
                "TensorQuantOverrides": {
                    name: [{"quant_type": QuantType.QInt8, "symmetric": True}] for name in of_tokens
                },
            },
        )


class _Calibration:
    """Images as ONNX Runtime reads them: the next batch, and None after the last."""

    def __init__(self, images: np.ndarray) -> None:
        self.batches = iter(np.array_split(images, math.ceil(len(images) / 32)))

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self.batches, None)
        return None if batch is None else {"images": batch}


def _array(variable: keras.Variable) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(variable), np.float32)


class _Graph:
    """Nodes in their order, and the constants that they read. A method adds nodes and returns its output's name."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(self, operator: str, *inputs: Name, output: Name | None = None, **attributes: object) -> Name:
        output = output or f"{operator}_{len(self.nodes)}"
        self.nodes.append(onnx.helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    def constant(self, values: object) -> Name:
        array = np.asarray(values)
        array = array.astype(np.int64 if array.dtype.kind == "i" else np.float32)
        self.constants.append(onnx.numpy_helper.from_array(array, f"constant_{len(self.constants)}"))
        return str(self.constants[-1].name)

    def reshape(self, x: Name, *shape: int) -> Name:
        return self.add("Reshape", x, self.constant(shape))

    def transpose(self, x: Name, *axes: int) -> Name:
        return self.add("Transpose", x, perm=axes)

    def dense(self, x: Name, kernel: np.ndarray, bias: np.ndarray | None) -> Name:
        y = self.add("MatMul", x, self.constant(kernel))
        return y if bias is None else self.add("Add", y, self.constant(bias))

    def norm(self, layer: Norm, x: Name) -> Name:
        gamma, beta = self.constant(_array(layer.gamma)), self.constant(_array(layer.beta))
        return self.add("LayerNormalization", x, gamma, beta, epsilon=layer.epsilon)

    def preprocess(self, layer: Preprocess, height: int, width: int, channels: int) -> Name:
        """Return the images resized, cropped and normalised, (B, S, S, channels)."""
        size = layer.image_size
        x = self.add("Cast", "images", to=onnx.TensorProto.FLOAT)
        if layer.crop_fraction < 1 or (height, width) != (size, size):
            rows, columns = (self.constant(matrix) for matrix in layer.matrices(height, width))
            x = self.add("MatMul", rows, self.reshape(x, -1, height, width * channels))
            x = self.add("MatMul", columns, self.reshape(x, -1, width, channels))
            x = self.reshape(x, -1, size, size, channels)
            if layer.interpolation == "bicubic":
                x = self.add("Clip", x, self.constant(0.0), self.constant(255.0))
        scale, shift = 1 / (255 * np.asarray(layer.std)), np.asarray(layer.mean) / layer.std
        return self.add("Sub", self.add("Mul", x, self.constant(scale)), self.constant(shift))

    def network(self, classifier: Classifier, images: Name) -> Name:
        """Return the logits (B, classes)."""
        network = classifier.network
        pixels = self.pixel_embedding(network.pixel_embedding, images)
        patches = self.patch_embedding(network.patch_embedding, pixels)
        for block in network.blocks:
            if block.has_inner:
                pixels = self.transformer(block.inner, pixels, network.config.pixels)
                patches = self.add("Add", patches, self.fusion(block.fusion, pixels))
            patches = self.transformer(block.outer, patches, network.config.tokens)
        x = self.pool(network.pool, self.norm(network.norm, patches))
        if (layer := network.representation) is not None:
            x = self.add("Tanh", self.dense(x, _array(layer.kernel), _array(layer.bias)))
        return self.dense(x, _array(network.head.kernel), _array(network.head.bias))

    def pixel_embedding(self, layer: PixelEmbedding, images: Name) -> Name:
        """Return the pixel tokens (B N, M, C)."""
        config = layer.config
        kernel, offset = (_array(value) for value in layer.kernel_and_offset())
        x = images
        if config.stem == "patch":
            x = self.split_into_patches(x, config.grid, config.patch_size, config.channels)
        margin = WINDOW // 2
        padding = {"auto_pad": "SAME_UPPER"} if config.stem == "image_same" else {"pads": [margin] * 4}
        x = self.add(
            "Conv",
            self.transpose(x, 0, 3, 1, 2),
            self.constant(kernel.transpose(3, 2, 0, 1)),
            strides=[config.stride] * 2,
            kernel_shape=[WINDOW] * 2,
            **padding,
        )
        x = self.transpose(x, 0, 2, 3, 1)
        if config.stem != "patch":
            x = self.split_into_patches(x, config.grid, config.pixel_grid, config.inner_dim)
        return self.add("Add", self.reshape(x, -1, config.pixels, config.inner_dim), self.constant(offset))

    def split_into_patches(self, images: Name, grid: int, side: int, channels: int) -> Name:
        """Return the patches (B grid grid, side, side, channels)."""
        x = self.transpose(self.reshape(images, -1, grid, side, grid, side, channels), 0, 1, 3, 2, 4, 5)
        return self.reshape(x, -1, side, side, channels)

    def patch_embedding(self, layer: PatchEmbedding, pixels: Name) -> Name:
        """Return the patch tokens (B, T, D)."""
        config = layer.config
        x = self.norm(layer.pixel_norm, self.reshape(pixels, -1, config.patches, config.fused_dim))
        x = self.norm(layer.patch_norm, self.dense(x, _array(layer.kernel), _array(layer.bias)))
        if config.patch_projection:
            x = self.dense(x, _array(layer.projection_kernel), _array(layer.projection_bias))
        if config.has_class_token:
            batch = self.add("Shape", x, end=1)
            shape = self.add("Concat", batch, self.constant([1, config.embed_dim]), axis=0)
            token = self.add("Expand", self.constant(_array(layer.token)), shape)
            x = self.add("Concat", token, x, axis=1)
        return self.add("Add", x, self.constant(_array(layer.positions))) if config.patch_position else x

    def fusion(self, layer: Fusion, pixels: Name) -> Name:
        """Return what the pixels add to the patch tokens (B, T, D)."""
        config, joined = layer.config, (-1, layer.config.patches, layer.config.fused_dim)
        if config.fusion == "pixel_norm_dense":
            x = self.reshape(self.norm(layer.norm, pixels), *joined)
        else:
            x = self.norm(layer.norm, self.reshape(pixels, *joined))
        x = self.dense(x, _array(layer.kernel), None if layer.bias is None else _array(layer.bias))
        if layer.last_norm is not None:
            x = self.norm(layer.last_norm, x)
        return self.add("Pad", x, self.constant([0, 1, 0, 0, 0, 0])) if config.has_class_token else x

    def transformer(self, layer: Transformer, x: Name, tokens: int) -> Name:
        """Return the tokens after attention and MLP, (sequences, tokens, dim)."""
        y = self.norm(layer.attention_norm, x)
        attend = self.folded_attention if layer.attention.is_folded else self.attention
        x = self.add("Add", x, attend(layer.attention, y, tokens))
        mlp = layer.mlp
        y = self.dense(self.norm(layer.mlp_norm, x), _array(mlp.expand_kernel), _array(mlp.expand_bias))
        y = self.dense(self.add("Gelu", y), _array(mlp.reduce_kernel), _array(mlp.reduce_bias))
        return self.add("Add", x, y)

    def attention(self, layer: Attention, y: Name, tokens: int) -> Name:
        """Return softmax(q k^T / sqrt(head width)) v, projected."""
        heads, width = layer.num_heads, layer.head_dim
        kernel = _array(layer.qkv_kernel).reshape(-1, 3, heads * width)
        bias = None if layer.qkv_bias is None else _array(layer.qkv_bias).reshape(3, -1)
        parts = []
        for index, (scale, axes) in enumerate([(width**-0.5, (0, 2, 1, 3)), (1, (0, 2, 3, 1)), (1, (0, 2, 1, 3))]):
            part = self.dense(y, kernel[:, index] * scale, None if bias is None else bias[index] * scale)
            parts.append(self.transpose(self.reshape(part, -1, tokens, heads, width), *axes))
        q, k, v = parts
        mixed = self.add("MatMul", self.add("Softmax", self.add("MatMul", q, k), axis=-1), v)
        mixed = self.reshape(self.transpose(mixed, 0, 2, 1, 3), -1, tokens, heads * width)
        return self.dense(mixed, _array(layer.projection_kernel), _array(layer.projection_bias))

    def folded_attention(self, layer: Attention, y: Name, tokens: int) -> Name:
        """Return the same without query, key and value: the kernels' products are constants; see `Attention`."""
        heads, width, dim = layer.num_heads, layer.head_dim, layer.dim
        query, key, value = _array(layer.qkv_kernel).reshape(dim, 3, heads, width).transpose(1, 2, 0, 3)  # (H, dim, w)
        bias = np.zeros((3, heads, width)) if layer.qkv_bias is None else _array(layer.qkv_bias).reshape(3, heads, -1)
        projection = _array(layer.projection_kernel).reshape(heads, width, dim)
        key = key * width**-0.5
        scores_kernel = np.einsum("hiw,hjw->ihj", query, key).reshape(dim, heads * dim)
        scores_bias = np.einsum("hw,hjw->hj", bias[0], key).reshape(-1)
        queries = self.dense(y, scores_kernel, None if layer.qkv_bias is None else scores_bias)
        queries = self.reshape(queries, -1, tokens * heads, dim)
        weights = self.add("Softmax", self.add("MatMul", queries, self.transpose(y, 0, 2, 1)), axis=-1)
        mixed = self.reshape(self.add("MatMul", weights, y), -1, tokens, heads * dim)
        offset = np.einsum("hw,hwj->j", bias[2], projection) + _array(layer.projection_bias)
        return self.dense(mixed, np.einsum("hiw,hwj->hij", value, projection).reshape(heads * dim, dim), offset)

    def pool(self, layer: Pool, tokens: Name) -> Name:
        """Return one vector per image (B, D)."""
        if layer.config.pool == "class_token":
            return self.add("Gather", tokens, self.constant(0), axis=1)
        if layer.config.pool == "average":
            return self.add("ReduceMean", tokens, self.constant([1]), keepdims=0)
        weights = self.add("Softmax", self.add("MatMul", tokens, self.constant(_array(layer.kernel))), axis=1)
        return self.add("ReduceSum", self.add("Mul", tokens, weights), self.constant([1]), keepdims=0)
