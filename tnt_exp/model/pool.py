"""From patch tokens to one vector."""

from typing import Any

import keras
from keras import ops

from tnt_exp.model import initialization as start

POOLS = ("class_token", "average", "sequence")


@keras.saving.register_keras_serializable(package="tnt_exp")
class Pool(keras.layers.Layer):
    """The class token, the average of the tokens, or their average weighted by a learnt score.

    Args:
        pool: "class_token": the first token (the paper); "average" (the keras.io example); "sequence": softmax of
            a Dense(1) weights the tokens (arXiv 2104.05704).
        initialization: See `tnt_exp.model.initialization`.
        seed: Seed of the weights.

    Call arguments:
        tokens: (B, T, D).

    Returns:
        (B, D).
    """

    def __init__(
        self,
        pool: str = "class_token",
        initialization: str = "truncated_normal",
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if pool not in POOLS:
            raise ValueError(f"Expected pool to be one of {POOLS}, received: pool={pool!r}.")
        self.pool = pool
        self.initialization = initialization
        self.seed = seed

    def build(self, input_shape: Any) -> None:
        """Create the weights of "sequence"; its Dense has no bias, which the softmax would cancel."""
        if self.pool == "sequence":
            dim = input_shape[-1]
            initializer = start.kernel(self.initialization, start.derive(self.seed, "kernel"), dim, 1)
            self.kernel = self.add_weight(name="kernel", shape=(dim, 1), initializer=initializer)

    def call(self, tokens: Any) -> Any:
        """Pool."""
        if self.pool == "class_token":
            return tokens[:, 0]
        if self.pool == "average":
            return ops.mean(tokens, axis=1)
        return ops.sum(tokens * ops.softmax(ops.matmul(tokens, self.kernel), axis=1), axis=1)
