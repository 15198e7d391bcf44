"""Colour changes of float32 images valued 0..255, with one factor (B,) per image, defined as in Pillow.

Shapes: B batch, h and w sides of the source image in pixels, C channels.
"""

from keras import ops

from tnt_exp.augmentation.stateless_random import StatelessRandom, Tensor
from tnt_exp.config.augmentation import AugmentationConfig


def grey(pixels: Tensor) -> Tensor:
    """Return the brightness (B, h, w, 1), weighted as ITU-R 601."""
    if pixels.shape[-1] == 1:
        return pixels
    return ops.sum(pixels * ops.convert_to_tensor([0.299, 0.587, 0.114], "float32"), axis=-1, keepdims=True)


def blend(other: Tensor, pixels: Tensor, factor: Tensor) -> Tensor:
    """Interpolate from `other` (factor 0) to `pixels` (factor 1), or extrapolate beyond, clipped to 0..255."""
    return ops.clip(other + factor[:, None, None, None] * (pixels - other), 0.0, 255.0)


def brightness(pixels: Tensor, factor: Tensor) -> Tensor:
    """Scale towards or away from black."""
    return ops.clip(pixels * factor[:, None, None, None], 0.0, 255.0)


def contrast(pixels: Tensor, factor: Tensor) -> Tensor:
    """Scale towards or away from the image's mean brightness."""
    return blend(ops.mean(grey(pixels), axis=(1, 2), keepdims=True), pixels, factor)


def saturation(pixels: Tensor, factor: Tensor) -> Tensor:
    """Scale towards or away from grey; a grey image does not change."""
    return pixels if pixels.shape[-1] == 1 else blend(grey(pixels), pixels, factor)


def hue(pixels: Tensor, angle: Tensor) -> Tensor:
    """Rotate the hue of (hue, saturation, value) by `angle` (B,), in full circles; a grey image does not change."""
    if pixels.shape[-1] == 1:
        return pixels
    red, green, blue = pixels[..., 0], pixels[..., 1], pixels[..., 2]
    value = ops.max(pixels, axis=-1)
    chroma = value - ops.min(pixels, axis=-1)
    divisor = ops.where(chroma > 0, chroma, 1.0)
    sixth = ops.where(
        value == red,
        (green - blue) / divisor,
        ops.where(value == green, (blue - red) / divisor + 2.0, (red - green) / divisor + 4.0),
    )
    sixth = sixth + 6.0 * angle[:, None, None]

    def channel(offset: float) -> Tensor:
        position = sixth + offset
        position = position - 6.0 * ops.floor(position / 6.0)
        return value - chroma * ops.clip(ops.minimum(position, 4.0 - position), 0.0, 1.0)

    return ops.stack([channel(5.0), channel(3.0), channel(1.0)], axis=-1)


def jitter(pixels: Tensor, config: AugmentationConfig, random: StatelessRandom) -> Tensor:
    """Change brightness, contrast, saturation and hue by random factors, unrounded.

    As torchvision's ColorJitter, except that the order is always this one (there it is random).
    """
    batch = pixels.shape[0]
    changes = (
        ("brightness", config.brightness, brightness),
        ("contrast", config.contrast, contrast),
        ("saturation", config.saturation, saturation),
    )
    for salt, strength, change in changes:
        if strength:
            pixels = change(pixels, random.uniform(salt, (batch,), max(0.0, 1 - strength), 1 + strength))
    if config.hue:
        pixels = hue(pixels, random.uniform("hue", (batch,), -config.hue, config.hue))
    return pixels
