"""Draw what augmentation does: a sheet a preset, and sheets of the single options and of the policies' operations.

    make pictures

Writes docs/pictures/augmentation/*.png from the two photographs that scikit-learn brings, or from images of your own:
`make pictures ARGS='--images FOLDER --output FOLDER'`.
"""

import argparse
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tnt_exp.config.augmentation import AugmentationConfig, Fill
from tnt_exp.config.compose import compose, options

SIZE = 96  # pixels, of the source and of what is drawn
MARGIN, LABEL = 4, 22  # pixels
COLUMNS = 6
STEPS = (2, 3, 6)  # training steps whose draws are shown; among them MixUp and CutMix
# Parts of scikit-learn's photographs: (which, left, top, side).
CROPS = [(0, 0, 0, 427), (1, 100, 0, 427), (0, 213, 0, 427), (1, 240, 90, 220), (0, 60, 20, 280), (0, 330, 220, 200)]

# The single options at a strength that shows.
SINGLE: dict[str, dict[str, Any]] = {
    "options_geometry": {
        "horizontal_flip": 0.5,
        "vertical_flip": 0.5,
        "rotation": 30,
        "zoom": 0.4,
        "shear": 25,
        "translation": 0.3,
        "crop_padding": 16,
        "crop_scale": [0.2, 0.6],
    },
    "options_colour": {
        "brightness": 0.6,
        "contrast": 0.8,
        "saturation": 1.0,
        "hue": 0.3,
        "erasing": 1.0,
        "mixup": 20,
        "cutmix": 20,
    },
}
LEVELS = (0.2, 0.4, 0.6, 0.8, 1.0)  # of a policy's operation; RandAugment's magnitude / 10
GEOMETRIC = ("rotate", "shear", "translate")
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet: erased boxes are noise of this spread

Cell = tuple[int, int, np.ndarray]  # row, column, image uint8 (SIZE, SIZE, 3)


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw every sheet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help=f"a folder of images, the first {COLUMNS} are drawn")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "pictures" / "augmentation")
    given = parser.parse_args(arguments)
    images = own(given.images) if given.images else photographs()
    given.output.mkdir(parents=True, exist_ok=True)
    for name in options("augmentation"):
        # mixing is a part that is added to another option.
        chosen = "[none,mixing]" if name == "mixing" else name
        config = compose([f"augmentation={chosen}"]).augmentation
        rows = [images, *(augmented(images, at_this_size(config), step) for step in STEPS)]
        save(
            given.output / f"{name}.png",
            ["as it is", *(f"as training sees it in step {step}" for step in STEPS)],
            grid(rows),
        )
    for name, values in SINGLE.items():
        singles = [augmented(images, AugmentationConfig(**{key: value}), 0) for key, value in values.items()]
        labels = [f"{key} = {value}" for key, value in values.items()]
        save(given.output / f"{name}.png", ["as it is", *labels], grid([images, *singles]))
    rows = dict(operations(images))
    for name, geometric in (("operations_geometry", True), ("operations_colour", False)):
        chosen_rows = {label: row for label, row in rows.items() if label.startswith(GEOMETRIC) is geometric}
        save(given.output / f"{name}.png", list(chosen_rows), grid(list(chosen_rows.values())))
    print(f"written to {given.output}")
    return 0


def photographs() -> np.ndarray:
    """Parts of scikit-learn's two photographs, uint8 (6, SIZE, SIZE, 3)."""
    from sklearn.datasets import load_sample_images

    sources = [Image.fromarray(image) for image in load_sample_images().images]
    boxes = [(which, (left, top, left + side, top + side)) for which, left, top, side in CROPS]
    return np.stack(
        [np.asarray(sources[which].resize((SIZE, SIZE), Image.Resampling.LANCZOS, box)) for which, box in boxes]
    )


def own(folder: Path) -> np.ndarray:
    """The first images of a folder, uint8 (6, SIZE, SIZE, 3)."""
    from tnt_exp.data.image_files import decode_image
    from tnt_exp.data.sources.folder_layout import list_images

    files = list_images(folder).files[:COLUMNS]
    if len(files) < COLUMNS:
        raise SystemExit(f"--images {folder}: expected {COLUMNS} images, received {len(files)}")
    return np.stack([decode_image(file, SIZE, 3) for file in files])


def at_this_size(config: AugmentationConfig) -> AugmentationConfig:
    """The preset, its padding in proportion: it is written for images of 32 pixels."""
    return replace(config, crop_padding=config.crop_padding * SIZE // 32)


def augmented(images: np.ndarray, config: AugmentationConfig, step: int) -> np.ndarray:
    """What training sees of the images in a step, uint8."""
    from tnt_exp.augmentation import Augmentation

    augmentation = Augmentation(config, image_size=SIZE, mean=_MEAN, std=_STD, num_classes=2, seed=0)
    inputs, _ = augmentation(images, np.zeros(len(images), np.int32), step)
    return pixels(np.asarray(inputs) * _STD + _MEAN)


def operations(images: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Each operation of RandAugment: its name, and the first image at growing levels, or three before and after."""
    from tnt_exp.augmentation.policies import randaugment_ranges

    for operation, magnitude in randaugment_ranges(increasing=True).items():
        change = abs(magnitude.span) * np.asarray(LEVELS)
        if magnitude.rounding is not None:
            change = np.floor(change + magnitude.rounding)
        values = magnitude.base + np.copysign(change, magnitude.span)
        if magnitude.span == 0:
            after = performed(images[:3], int(operation), values[:3])
            yield operation.name, np.stack([images[:3], after], axis=1).reshape(-1, *images.shape[1:])
        else:
            seen = performed(np.repeat(images[:1], len(values), axis=0), int(operation), values)
            said = ", ".join(f"{value:.3g}" for value in values)
            yield f"{operation.name}: {said}", np.concatenate([images[:1], seen])


def performed(images: np.ndarray, operation: int, values: np.ndarray) -> np.ndarray:
    """The images after one operation, each with an argument of its own."""
    from tnt_exp.augmentation.geometry import sample
    from tnt_exp.augmentation.policies import apply_operations

    which = np.full((len(images), 1), operation, np.int32)
    changed, maps = apply_operations(images.astype(np.float32), which, values[:, None].astype(np.float32))
    return pixels(np.asarray(sample(changed, maps, SIZE, Fill.constant, False)) / 255)


def pixels(values: np.ndarray) -> np.ndarray:
    """0..1 to uint8."""
    return np.round(np.clip(values, 0, 1) * 255).astype(np.uint8)


def grid(rows: Sequence[np.ndarray]) -> Iterator[Cell]:
    """The cells of rows of images."""
    return ((row, column, image) for row, images in enumerate(rows) for column, image in enumerate(images))


def save(file: Path, labels: Sequence[str], cells: Iterator[Cell]) -> None:
    """One PNG of 192 colours: a label above each row."""
    height = SIZE + MARGIN + LABEL
    sheet = Image.new("RGB", (COLUMNS * (SIZE + MARGIN) + MARGIN, len(labels) * height + MARGIN), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for row, label in enumerate(labels):
        draw.text((MARGIN, row * height + 3), label, fill="black", font=font)
    for row, column, image in cells:
        sheet.paste(Image.fromarray(image), (MARGIN + column * (SIZE + MARGIN), row * height + LABEL))
    sheet.quantize(192, Image.Quantize.MEDIANCUT, dither=Image.Dither.FLOYDSTEINBERG).save(file, optimize=True)


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    raise SystemExit(main())
