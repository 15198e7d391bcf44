"""The attention of a TNT: between the patches of an image, and between the pixels of a patch.

Shapes: N patches (a square), T tokens (N, and 1 for a class token), M pixel tokens per patch (a square), H heads.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from tnt_exp.reports.run_figures import draw_image, save_figure

if TYPE_CHECKING:
    from tnt_exp.model.classifier import Classifier


@dataclass(frozen=True)
class AttentionMaps:
    """The attention weights of one image; each row sums to 1."""

    outer: Sequence[np.ndarray]  # a block's (H, T, T), in the order of the blocks
    inner: np.ndarray  # the last block's with an inner transformer (N, H, M, M)
    class_token: bool  # whether a class token, which the answer is read from, stands before the patches

    def rollout(self) -> np.ndarray:
        """Return (grid, grid): how much of each patch reaches the prediction through all blocks; sums to 1.

        Attention rollout (arXiv 2005.00928): heads averaged, the residual path counted as half.
        """
        flow = np.eye(self.outer[0].shape[-1])
        for weights in self.outer:
            flow = (weights.mean(axis=0) + np.eye(len(flow))) / 2 @ flow
        read = self._read(flow)
        return np.asarray(read / read.sum())

    def heads(self) -> np.ndarray:
        """Return (H, grid, grid): the attention of each head of the last block."""
        return np.stack([self._read(weights) for weights in self.outer[-1]])

    def pixels(self) -> np.ndarray:
        """Return (N, H, side, side): the attention that the pixels of a patch get from all pixels of that patch."""
        patches, heads, tokens, _ = self.inner.shape
        return np.asarray(self.inner.mean(axis=2)).reshape(patches, heads, isqrt(tokens), isqrt(tokens))

    def _read(self, weights: np.ndarray) -> np.ndarray:
        row = weights[0, 1:] if self.class_token else weights.mean(axis=0)
        return row.reshape(isqrt(len(row)), isqrt(len(row)))


def read_attention(classifier: "Classifier", image: np.ndarray) -> tuple[str, float, np.ndarray, AttentionMaps]:
    """Return the predicted class, its probability, the image as the network sees it in [0, 1], and the attention.

    The classifier has an inner transformer; the image is uint8 (height, width, channels).
    """
    from keras import ops

    preprocess, network = classifier.preprocess, classifier.network
    inputs = preprocess(image[None])
    probabilities = ops.convert_to_numpy(ops.softmax(network(inputs)))[0]
    inner: list[np.ndarray] = []
    outer: list[np.ndarray] = []
    for inner_weights, outer_weights in network.attention_weights(inputs):
        outer.append(np.asarray(ops.convert_to_numpy(outer_weights), np.float64)[0])
        if inner_weights is not None:
            inner.append(np.asarray(ops.convert_to_numpy(inner_weights), np.float64))
    pixels = ops.convert_to_numpy(inputs)[0] * np.asarray(preprocess.std) + np.asarray(preprocess.mean)
    best = int(probabilities.argmax())
    maps = AttentionMaps(outer, inner[-1], class_token=outer[0].shape[-1] > network.config.patches)
    return classifier.class_names[best], float(probabilities[best]), pixels, maps


def attention_maps(image: np.ndarray, maps: AttentionMaps, title: str, file: Path) -> None:
    """Draw an image, the patches with the most attention, and the pixels within the first of them.

    The image is float (S, S, 1 or 3) in [0, 1], as the model sees it.
    """
    rollout, heads, pixels = maps.rollout(), maps.heads(), maps.pixels()
    grid = len(rollout)
    most = int(rollout.argmax())
    row, column = divmod(most, grid)
    side = len(image) // grid
    columns = 3 + max(min(len(heads), 6), min(pixels.shape[1], 6))
    figure = Figure(figsize=(1.9 * columns, 4.6), layout="constrained")
    panels = figure.subplots(2, columns)
    for axes in panels.flat:
        axes.axis("off")
    figure.suptitle(title)

    draw_image(panels[0, 0], image, "image")
    draw_image(panels[0, 1], image, "patches, all blocks")
    whole = (-0.5, len(image) - 0.5, len(image) - 0.5, -0.5)
    panels[0, 1].imshow(rollout, cmap="inferno", alpha=0.6, vmin=0, extent=whole, interpolation="bilinear")
    _map(panels[0, 2], rollout, "the same, alone")
    for number, weights in enumerate(heads[:6], start=1):
        _map(panels[0, 2 + number], weights, f"last block, head {number}")

    draw_image(panels[1, 0], image, "the patch that matters most")
    frame = Rectangle((column * side - 0.5, row * side - 0.5), side, side, fill=False, color="#d1662b", linewidth=2)
    panels[1, 0].add_patch(frame)
    draw_image(panels[1, 1], image[row * side : (row + 1) * side, column * side : (column + 1) * side], "that patch")
    _map(panels[1, 2], _mosaic(pixels.mean(axis=1)), "pixels of all patches")
    for number, weights in enumerate(pixels[most][:6], start=1):
        _map(panels[1, 2 + number], weights, f"its pixels, head {number}")
    save_figure(figure, file)


def _mosaic(pixels: np.ndarray) -> np.ndarray:
    """(N, side, side) -> the image (grid side, grid side)."""
    patches, side, _ = pixels.shape
    grid = isqrt(patches)
    return pixels.reshape(grid, grid, side, side).transpose(0, 2, 1, 3).reshape(grid * side, grid * side)


def _map(axes: Axes, weights: np.ndarray, title: str) -> None:
    axes.imshow(weights, cmap="inferno", vmin=0, vmax=weights.max())
    axes.set_title(f"{title}\n{weights.min():.3f} to {weights.max():.3f}", fontsize=8)
