"""The keras.io example "Image classification with TNT" in its own formulation: stock Keras layers, one after another.

A peer to measure against, and a second opinion on the mathematics. Written anew; where Keras 3 has changed, the nearest
layer that does the same. https://keras.io/examples/vision/transformer_in_transformer
"""

from typing import Any

import keras
import numpy as np
from keras import layers, ops

PIXELS, INNER, INNER_HEADS = 4, 32, 2
OUTER, OUTER_HEADS = 64, 4
PATCH, STRIDE = 8, 4


class Positions(layers.Layer):
    """Adds an embedding of each token's number."""

    def __init__(self, tokens: int, width: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.tokens = tokens
        self.embedding = layers.Embedding(tokens, width)

    def call(self, x: Any) -> Any:
        """Add them."""
        return x + self.embedding(ops.arange(self.tokens))


def network(size: int = 96, depth: int = 5, classes: int = 100, dropout: bool = True) -> keras.Model:
    """uint8 images (B, 32, 32, 3) -> probabilities (B, classes), the augmentation inside."""
    patches, rate = (size // PATCH) ** 2, 1.0 if dropout else 0.0

    def norm(x: Any) -> Any:
        return layers.LayerNormalization(epsilon=1e-5)(x)

    def transformer(x: Any, width: int, heads: int) -> Any:
        y = norm(x)
        x = layers.add([layers.MultiHeadAttention(heads, key_dim=width, dropout=0.5 * rate)(y, y), x])
        y = layers.Dense(4 * width, activation=lambda h: keras.activations.gelu(h, approximate=False))(norm(x))
        y = layers.Dropout(0.2 * rate)(y)
        y = layers.Dropout(0.2 * rate)(layers.Dense(width)(y))
        return layers.add([y, x])

    def joined(pixels: Any) -> Any:
        return ops.reshape(pixels, (-1, patches, PIXELS * INNER))

    images = keras.Input((32, 32, 3))
    x = layers.Resizing(size, size)(layers.Rescaling(1 / 255)(images))
    x = layers.RandomRotation(0.1)(layers.RandomFlip("horizontal")(x))
    x = layers.RandomZoom(0.2, 0.2)(layers.RandomContrast(0.1)(x))
    x = layers.Conv2D(INNER, 7, strides=STRIDE, padding="same")(x)
    x = ops.image.extract_patches(x, (PATCH // STRIDE, PATCH // STRIDE), padding="valid")
    pixel = Positions(PIXELS, INNER)(layers.Dense(INNER)(ops.reshape(x, (-1, PIXELS, INNER))))
    patch = norm(layers.Dense(OUTER)(norm(joined(pixel))))
    patch = layers.Dropout(0.5 * rate)(Positions(patches, OUTER)(layers.Dense(OUTER)(patch)))
    for _ in range(depth):
        pixel = transformer(pixel, INNER, INNER_HEADS)
        patch = layers.add([patch, layers.Dense(OUTER)(norm(joined(pixel)))])
        patch = transformer(patch, OUTER, OUTER_HEADS)
    x = layers.GlobalAveragePooling1D()(norm(patch))
    return keras.Model(images, layers.Dense(classes, activation="softmax")(x))


class Seed:
    """Trains and predicts as the example does: `compile`, then batch after batch of images with one-hot labels."""

    def __init__(self, batch: int, depth: int = 5, size: int = 96) -> None:
        random = np.random.default_rng(0)
        self.images = random.integers(0, 256, (batch, 32, 32, 3), dtype=np.uint8)
        self.labels = np.eye(100, dtype=np.float32)[random.integers(0, 100, batch)]
        self.model = network(size, depth)
        self.model.compile(
            optimizer=keras.optimizers.AdamW(1e-3, weight_decay=0.2),
            loss=keras.losses.CategoricalCrossentropy(label_smoothing=0.1),
            metrics=[keras.metrics.CategoricalAccuracy(), keras.metrics.TopKCategoricalAccuracy(5)],
        )

    def parameters(self) -> int:
        """How many."""
        return self.model.count_params()

    def train(self) -> None:
        """One step."""
        self.model.train_on_batch(self.images, self.labels)

    def infer(self) -> None:
        """One batch."""
        self.model.predict_on_batch(self.images)
