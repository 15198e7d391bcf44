"""The network: every argument of `tnt_exp.model.TNT`, and its preprocessing."""

from dataclasses import dataclass
from enum import Enum

from tnt_exp.config.field import config_field


class Stem(Enum):
    """Where the 7x7 convolution runs, and its padding."""

    image = "image"  # whole image, 3 zeros on every side (timm legacy)
    image_same = "image_same"  # whole image, Keras "same" padding (the keras.io example)
    patch = "patch"  # inside each patch, 3 zeros on every side (the paper)


class Fusion(Enum):
    """How the pixels of a patch become one vector to add to the patch token."""

    norm_dense = "norm_dense"  # LN(m*c) -> Dense with bias (the keras.io example)
    norm_dense_norm = "norm_dense_norm"  # LN(m*c) -> Dense without bias -> LN(d) (the paper)
    pixel_norm_dense = "pixel_norm_dense"  # LN(c) per pixel -> Dense with bias (timm legacy)


class HeadWidth(Enum):
    """The width of one attention head."""

    split = "split"  # dim / heads (the paper)
    full = "full"  # dim (the keras.io example)


class Pool(Enum):
    """How the patch tokens become one vector."""

    class_token = "class_token"
    average = "average"
    sequence = "sequence"  # softmax-weighted average, learned weights (arXiv 2104.05704)


class Initialization(Enum):
    """Initialization of the weights."""

    truncated_normal = "truncated_normal"  # deviation 0.02 (the paper)
    keras = "keras"  # Glorot uniform; positions uniform in +-0.05 (the keras.io example)


class Interpolation(Enum):
    """How an image is resized to the model's input size."""

    bilinear = "bilinear"
    bicubic = "bicubic"


@dataclass
class ModelConfig:
    """Transformer in Transformer (arXiv 2103.00112) and its preprocessing. Defaults are the paper's."""

    name: str = config_field("tnt", "preset name, a tag of the run")
    image_size: int = config_field(32, "side of the square input, pixels; images are resized to it", ge=1)
    patch_size: int = config_field(8, "side of a patch, pixels", ge=1)
    stride: int = config_field(
        4, "stride of the stem, pixels: a patch holds (patch_size / stride)^2 pixel tokens", ge=1
    )
    depth: int = config_field(12, "number of TNT blocks", ge=1)
    embed_dim: int = config_field(192, "width of a patch token (outer)", ge=1)
    inner_dim: int = config_field(12, "width of a pixel token (inner)", ge=1)
    num_heads: int = config_field(3, "attention heads of the outer transformer", ge=1)
    inner_num_heads: int = config_field(2, "attention heads of the inner transformer", ge=1)
    head_width: HeadWidth = config_field(HeadWidth.split, "width of one head: split (dim / heads) or full (dim)")
    mlp_ratio: float = config_field(4.0, "hidden width of an MLP / its width", gt=0)
    qkv_bias: bool = config_field(False, "bias on query, key and value")
    inner_blocks: list[int] | None = config_field(
        None, "blocks that keep the inner transformer, from 1; null: all", ge=1
    )
    stem: Stem = config_field(Stem.patch, "where the 7x7 convolution runs, and its padding")
    pixel_projection: bool = config_field(False, "extra Dense on pixel tokens (the keras.io example)")
    patch_projection: bool = config_field(False, "extra Dense on patch tokens (the keras.io example)")
    pixel_position: bool = config_field(True, "learned position of a pixel in its patch")
    patch_position: bool = config_field(True, "learned position of a patch in the image")
    fusion: Fusion = config_field(Fusion.norm_dense_norm, "how pixels of a patch are added to its token")
    pool: Pool = config_field(Pool.class_token, "how patch tokens become one vector")
    representation_size: int | None = config_field(None, "width of a tanh layer before the head; null: none", ge=1)
    drop_path: float = config_field(0.0, "stochastic depth of the last block, linear from 0", ge=0, lt=1)
    embedding_dropout: float = config_field(0.0, "dropout of patch tokens after the positions", ge=0, lt=1)
    attention_dropout: float = config_field(0.0, "dropout of attention weights", ge=0, lt=1)
    mlp_dropout: float = config_field(0.0, "dropout after each Dense of an MLP", ge=0, lt=1)
    initialization: Initialization = config_field(Initialization.truncated_normal, "initialization of the weights")
    mean: list[float] = config_field([0.5], "subtracted from pixels in [0, 1]; one number, or one per channel")
    std: list[float] = config_field([0.5], "divides pixels after the mean; one number, or one per channel", gt=0)
    interpolation: Interpolation = config_field(Interpolation.bilinear, "how evaluation images are resized")
    crop_fraction: float = config_field(1.0, "evaluation keeps this central fraction of the side", gt=0, le=1)
    weights: str | None = config_field(
        None, "weights to start from: cifar100 (shipped), a run folder, or .safetensors, .keras, .pth"
    )
