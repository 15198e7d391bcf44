"""From a batch of source images to the network's input and soft labels, inside the compiled training step.

Shapes: B batch, h and w sides of the source image in pixels, S side of the network's input in pixels, C channels,
K classes.
"""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

import numpy as np
from keras import ops

from tnt_exp.augmentation.color import jitter
from tnt_exp.augmentation.geometry import central_square, compose, random_geometry, sample
from tnt_exp.augmentation.mixing import erase, mix
from tnt_exp.augmentation.policies import apply_operations, random_operations
from tnt_exp.augmentation.stateless_random import StatelessRandom, Tensor
from tnt_exp.config.augmentation import AugmentationConfig, Policy


@dataclass(frozen=True, eq=False)
class Augmentation:
    """Augment a batch: a pure function of (config, seed, step, images, labels).

    Order: policy, colour, geometry and resize in one sample, normalisation, erasing, mixing. Compiles under XLA on
    TensorFlow and JAX.

    Call arguments:
        images: uint8 (B, h, w, C); C is 1 or 3; a static shape.
        labels: int (B,).
        step: Integer scalar, the number of the step.
        mixing: Float scalar in [0, 1], multiplies `mix_probability`.

    Returns:
        inputs float32 (B, S, S, C), normalised; targets float32 (B, K), each row sums to 1.
    """

    config: AugmentationConfig  # the changes and their strengths
    _: KW_ONLY
    image_size: int  # S
    mean: Sequence[float]  # of images scaled to 0..1: one number, or one per channel
    std: Sequence[float]
    num_classes: int  # K
    label_smoothing: float = 0.0  # fraction of the label that is spread over all classes
    seed: int  # of the run
    branching: bool = True  # whether a condition skips what a batch does not need: not on a GPU, where the host waits

    def __call__(self, images: Tensor, labels: Tensor, step: Tensor, mixing: Tensor = 1.0) -> tuple[Tensor, Tensor]:
        """Return inputs and targets (see the class)."""
        return self.mix(self.augment(None, step, images), labels, step, mixing)

    def augment(self, microbatch: Tensor | None, step: Tensor, images: Tensor) -> Tensor:
        """Return the inputs before mixing: of a batch (`microbatch` None), or of the microbatch with this index.

        Here no image depends on another, so that microbatches of one size can be computed in parallel.
        """
        config, random = self.config, StatelessRandom(self.seed, step, microbatch)
        batch, height, width = images.shape[:3]
        pixels = ops.cast(images, "float32")
        policy_maps = None
        is_cropped = config.crop_scale is not None
        source = (height, width) if is_cropped else (min(height, width),) * 2
        if config.policy is not Policy.none:
            # A policy counts shifts in pixels of its input image: the source, or the resized crop.
            frame = (self.image_size, self.image_size) if is_cropped else source
            pixels, policy_maps = apply_operations(pixels, *random_operations(config, random, batch, frame))
        pixels = jitter(pixels, config, random)
        maps = random_geometry(config, random, batch, source, policy_maps)
        if height != width and not is_cropped:  # the square that evaluation sees
            square = central_square(height, width, self.image_size)
            maps = square if maps is None else compose(square, maps)
        axis_aligned = not (config.rotation or config.shear) and policy_maps is None
        pixels = sample(pixels, maps, self.image_size, config.fill, axis_aligned)
        mean, std = (ops.convert_to_tensor(np.asarray(numbers, "float32")) for numbers in (self.mean, self.std))
        inputs = (pixels / 255.0 - mean) / std
        return erase(inputs, config.erasing, random) if config.erasing else inputs

    def mix(self, inputs: Tensor, labels: Tensor, step: Tensor, mixing: Tensor = 1.0) -> tuple[Tensor, Tensor]:
        """Return inputs and targets of a whole batch, after label smoothing and mixing."""
        targets = ops.one_hot(labels, self.num_classes, dtype="float32")
        targets = targets * (1.0 - self.label_smoothing) + self.label_smoothing / self.num_classes
        if self.config.mixup or self.config.cutmix:
            draws = StatelessRandom(self.seed, step)
            return mix(inputs, targets, self.config, draws, mixing, branching=self.branching)
        return inputs, targets
