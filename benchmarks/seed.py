"""The keras.io example "Image classification with TNT" in its own formulation: stock Keras layers, one after another.

A reference to compare speed and mathematics with. Rewritten; where Keras 3 differs, the nearest equivalent layer.
https://keras.io/examples/vision/transformer_in_transformer
"""

from typing import Any

import keras
import numpy as np
from keras import layers, ops


class Positions(layers.Layer):
    """Adds an embedding of each token's number."""

    def __init__(self, tokens: int, width: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.tokens = tokens
        self.embedding = layers.Embedding(tokens, width)

    def call(self, x: Any) -> Any:
        """Add them."""
        return x + self.embedding(ops.arange(self.tokens))


def network(
    size: int = 96,
    depth: int = 5,
    classes: int = 100,
    dropout: bool = True,
    *,
    image: tuple[int, int, int] = (32, 32, 3),
    patch: int = 8,
    stride: int = 4,
    inner: int = 32,
    outer: int = 64,
    inner_heads: int = 2,
    outer_heads: int = 4,
) -> keras.Model:
    """uint8 images (B, *image) -> probabilities (B, classes), the augmentation inside."""
    patches, pixels, rate = (size // patch) ** 2, (patch // stride) ** 2, 1.0 if dropout else 0.0

    def norm(x: Any) -> Any:
        return layers.LayerNormalization(epsilon=1e-5)(x)

    def transformer(x: Any, width: int, heads: int) -> Any:
        y = norm(x)
        x = layers.add([layers.MultiHeadAttention(heads, key_dim=width, dropout=0.5 * rate)(y, y), x])
        y = layers.Dense(4 * width, activation=lambda h: keras.activations.gelu(h, approximate=False))(norm(x))
        y = layers.Dropout(0.2 * rate)(y)
        y = layers.Dropout(0.2 * rate)(layers.Dense(width)(y))
        return layers.add([y, x])

    def joined(pixel: Any) -> Any:
        return ops.reshape(pixel, (-1, patches, pixels * inner))

    images = keras.Input(image)
    x = layers.Resizing(size, size)(layers.Rescaling(1 / 255)(images))
    x = layers.RandomRotation(0.1)(layers.RandomFlip("horizontal")(x))
    x = layers.RandomZoom(0.2, 0.2)(layers.RandomContrast(0.1)(x))
    x = layers.Conv2D(inner, 7, strides=stride, padding="same")(x)
    x = ops.image.extract_patches(x, (patch // stride, patch // stride), padding="valid")
    pixel = Positions(pixels, inner)(layers.Dense(inner)(ops.reshape(x, (-1, pixels, inner))))
    token = norm(layers.Dense(outer)(norm(joined(pixel))))
    token = layers.Dropout(0.5 * rate)(Positions(patches, outer)(layers.Dense(outer)(token)))
    for _ in range(depth):
        pixel = transformer(pixel, inner, inner_heads)
        token = layers.add([token, layers.Dense(outer)(norm(joined(pixel)))])
        token = transformer(token, outer, outer_heads)
    x = layers.GlobalAveragePooling1D()(norm(token))
    return keras.Model(images, layers.Dense(classes, activation="softmax")(x))


class Seed:
    """Trains and predicts as the example does: `compile`, then batch after batch of images with one-hot labels."""

    def __init__(self, batch: int, **dimensions: Any) -> None:
        random = np.random.default_rng(0)
        image, classes = tuple(dimensions.pop("image", (32, 32, 3))), dimensions.get("classes", 100)
        self.images = random.integers(0, 256, (batch, *image), dtype=np.uint8)
        self.labels = np.eye(classes, dtype=np.float32)[random.integers(0, classes, batch)]
        self.model = network(image=image, **dimensions)
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
