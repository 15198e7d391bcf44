"""What the network's layers are made of: their base class, the layer normalisation, the pool, shared block traces.

Shapes: B batch, N patches per image, T tokens per image (N, and 1 for a class token), M pixel tokens per patch,
C inner width, D outer width, S side of the image in pixels.
"""

import dataclasses
from collections.abc import Callable
from typing import Self, TypeVar, Unpack

import keras
from keras import ops

from tnt_exp.augmentation.stateless_random import Tensor
from tnt_exp.model.fused_ops import EPSILON, add_bias, has_half_kernels, normalize, standardize
from tnt_exp.model.initializers import derive_seed, kernel_initializer, position_initializer
from tnt_exp.model.tnt_config import Arguments, LayerOptions, TNTConfig

Images = Tensor  # (B, S, S, channels)
PixelTokens = Tensor  # (B N, M, C)
PatchTokens = Tensor  # (B, T, D)
Tokens = Tensor  # (sequences, tokens, width): pixel tokens or patch tokens
Seed = Tensor  # int32 (2,), or (3,) with the index of a microbatch: the randomness of one step
Scalar = Tensor  # float32 ()
Shape = tuple[int | None, ...]

_Layer = TypeVar("_Layer", bound="TNTLayer")


class TNTLayer(keras.layers.Layer):
    """A layer that reads the network's configuration and has a `seed` of its own, of its weights and dropout.

    The `seed` of a call is another one: the step's, None at inference.
    """

    own_arguments: tuple[str, ...] = ()  # those that a class adds, each also the name of an attribute

    def __init__(self, config: TNTConfig, *, seed: int = 0, **layer_options: Unpack[LayerOptions]) -> None:
        super().__init__(**layer_options)
        self.config = config
        self.seed = seed

    def add_sublayer(self, layer_class: type[_Layer], name: str, *arguments: int) -> _Layer:
        """Return a new layer of this class with the same configuration and data type and a seed derived for it."""
        seed = derive_seed(self.seed, name)
        return layer_class(self.config, *arguments, seed=seed, name=name, dtype=self.dtype_policy.name)

    def add_norm(self, name: str) -> "Norm":
        """Return a new layer normalisation."""
        return Norm(name=name, dtype=self.dtype_policy.name)

    def add_kernel(self, name: str, shape: tuple[int, int], fans: tuple[int, int] | None = None) -> keras.Variable:
        """Create the kernel of a Dense; `fans` are its inputs and outputs where they are not its shape."""
        seed = derive_seed(self.seed, name.removesuffix("_kernel"))
        initializer = kernel_initializer(self.config.initialization, seed, *(fans or shape))
        return self.add_weight(name=name, shape=shape, initializer=initializer)

    def add_bias(self, name: str, size: int) -> keras.Variable:
        """Create a bias (size,) of zeros."""
        return self.add_weight(name=name, shape=(size,), initializer="zeros")

    def add_position(self, name: str, shape: tuple[int, ...]) -> keras.Variable:
        """Create learnt positions or a learnt token."""
        initializer = position_initializer(self.config.initialization, derive_seed(self.seed, name))
        return self.add_weight(name=name, shape=shape, initializer=initializer)

    def get_config(self) -> Arguments:
        """Return the arguments."""
        own = {name: getattr(self, name) for name in self.own_arguments}
        return {**super().get_config(), "config": dataclasses.asdict(self.config), "seed": self.seed, **own}

    @classmethod
    def from_config(cls, config: Arguments) -> Self:
        """Return the layer of `get_config`."""
        layer: Self = super().from_config({**config, "config": TNTConfig(**config["config"])})
        return layer


@keras.saving.register_keras_serializable(package="tnt_exp")
class Norm(keras.layers.LayerNormalization):
    """A layer normalisation over the last axis whose scale and offset can be folded into the next product.

    LN(x) W + b = x' (scale * W) + (offset W + b) with x' the standardised x. So scale and offset cost a pass over the
    weights instead of one over the tokens, and their gradients are those of weights.

    The class is called `Norm` because saved models name some of their weights after it.
    """

    def __init__(self, epsilon: float = EPSILON, **layer_options: Unpack[LayerOptions]) -> None:
        super().__init__(epsilon=epsilon, **layer_options)

    def standardize(self, x: Tensor, seed: Seed | None = None) -> Tensor:
        """Return `x` normalised without scale and offset; `seed` is the step's, None at inference."""
        return standardize()(x, seed)

    def normalize(self, x: Tensor, bias: Tensor, shape: Shape, seed: Seed | None = None) -> Tensor:
        """Return the layer normalisation of a product (rows, width) and its bias (width,), as tokens of `shape`."""
        if not has_half_kernels(x, seed):
            return self(ops.reshape(add_bias(x, bias), shape))
        scale, offset = map(ops.convert_to_tensor, (self.gamma, self.beta))
        return ops.reshape(normalize()(x, scale, offset, bias, seed), shape)

    def fold_into(self, kernel: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return kernel (k width, n) and bias (n,) for k standardised tokens at once in place of normalised ones."""
        tokens = kernel.shape[0] // self.gamma.shape[0]
        scale, offset = (ops.tile(ops.cast(vector, kernel.dtype), tokens) for vector in (self.gamma, self.beta))
        folded_bias = ops.sum(offset[:, None] * kernel, axis=0)
        return scale[:, None] * kernel, folded_bias if bias is None else folded_bias + bias


@keras.saving.register_keras_serializable(package="tnt_exp")
class Pool(TNTLayer):
    """From tokens (B, T, D) to one vector per image (B, D).

    `config.pool` is "class_token": the first token (the paper); "average" (the keras.io example); or "sequence":
    a softmax of a Dense(1) weights the tokens (arXiv 2104.05704).
    """

    def build(self, input_shape: Shape) -> None:
        """Create the kernel of "sequence"; a bias would cancel in the softmax."""
        if self.config.pool == "sequence":
            self.kernel = self.add_kernel("kernel", (self.config.embed_dim, 1))

    def call(self, tokens: PatchTokens) -> Tensor:
        """Return one vector per image."""
        if self.config.pool == "class_token":
            return tokens[:, 0]
        if self.config.pool == "average":
            return ops.mean(tokens, axis=1)
        return ops.sum(tokens * ops.softmax(ops.matmul(tokens, self.kernel), axis=1), axis=1)


class SharedBlockTrace:
    """Calls blocks; on TensorFlow, blocks whose weights have the same shapes share one traced function.

    A graph that holds as many blocks as the network is deep is traced, differentiated and optimised that many times,
    which a user waits for at the start of every run. On other backends, and outside a graph, blocks are called
    directly.
    """

    def __init__(self) -> None:
        self._functions: dict[tuple[object, ...], Callable[..., Tensor]] = {}

    def __call__(self, block: keras.layers.Layer, *inputs: Tensor | None) -> Tensor:
        """Return what the block returns."""
        if keras.config.backend() != "tensorflow":
            return block(*inputs)
        import tensorflow as tf

        if tf.executing_eagerly():
            return block(*inputs)
        signature = tuple((tuple(variable.shape), variable.dtype) for variable in block.variables)

        def call_block(weights: list[Tensor], *inputs: Tensor | None) -> Tensor:
            with keras.StatelessScope(state_mapping=list(zip(block.variables, weights, strict=True))):
                return block(*inputs)

        if signature not in self._functions:
            # Not inlined: otherwise the graph optimiser sees as many blocks as before.
            attributes = {"_noinline": True}
            self._functions[signature] = tf.function(call_block, autograph=False, experimental_attributes=attributes)
        weights = [tf.convert_to_tensor(variable.value) for variable in block.variables]
        return self._functions[signature](weights, *inputs)
