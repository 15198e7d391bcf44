"""How much of what the cores can decode reaches the training loop, from a folder of JPEGs.

    python benchmarks/decoding.py

Makes 20,000 photograph-like JPEGs of about 500 pixels once (2 GB in .cache/), then in each of 30 rounds, on the same
files, at 224 pixels: all cores decoding and nothing else (the capacity), and the images as `tnt_exp.data` hands them
to the loop, in shuffled batches. Prints the ratio of the two and the resident memory over three epochs, and writes
both to benchmarks/results/decoding.json.
"""

import argparse
import datetime
import json
import os
import platform
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import psutil
from PIL import Image, ImageDraw, features

from tnt_exp.config.dataset import DatasetConfig, Source
from tnt_exp.data import epoch_order, load_dataset
from tnt_exp.data.image_files import FileImages, decode_image
from tnt_exp.hardware import cpu_count, processor_info

ROOT = Path(__file__).resolve().parents[1]
CLASSES = 20
CANVAS = 1200  # pixels
CANVASES = 24


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the images, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--size", type=int, default=224, help="side to which images are decoded, pixels")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=10, help="rounds an epoch")
    parser.add_argument("--folder", type=Path, default=ROOT / ".cache" / "decoding", help="where the JPEGs are kept")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "decoding.json")
    options = parser.parse_args(arguments)
    folder = make_images(options.folder / str(options.images), options.images)
    result = measure(folder, options)
    show(result)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written to {options.output}")
    return 0


def make_images(folder: Path, count: int) -> Path:
    """A folder of class folders with `count` JPEGs; made once."""
    if folder.exists():
        return folder
    print(f"making {count:,} JPEGs in {folder}", flush=True)
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    for label in range(CLASSES):
        (part / f"class{label:02d}").mkdir(parents=True)
    canvases = [Image.fromarray(_canvas(np.random.default_rng(number))) for number in range(CANVASES)]

    def make(number: int) -> None:
        random = np.random.default_rng([1, number])
        width, height = (500, int(random.integers(333, 420)))[:: random.choice((1, -1))]
        left, top = (int(random.integers(CANVAS - side)) for side in (width, height))
        photo = canvases[random.integers(CANVASES)].crop((left, top, left + width, top + height))
        draw = ImageDraw.Draw(photo)
        for _ in range(3):  # edges, as things in a photograph have
            x, y, across, down = (int(value) for value in random.integers(20, 300, 4))
            draw.ellipse((x, y, x + across, y + down), outline=tuple(map(int, random.integers(0, 256, 3))), width=4)
        file = part / f"class{number % CLASSES:02d}" / f"{number:05d}.jpg"
        photo.save(file, quality=int(random.integers(85, 94)))

    with ThreadPoolExecutor(cpu_count()) as pool:
        for _ in pool.map(make, range(count)):
            pass
    part.rename(folder)
    return folder


def _canvas(random: np.random.Generator) -> np.ndarray:
    """Noise with the spectrum of photographs (amplitude falls as 1 / frequency): uint8 (H, W, 3)."""
    frequency = np.hypot(np.fft.fftfreq(CANVAS)[:, None], np.fft.rfftfreq(CANVAS))
    frequency[0, 0] = np.inf

    def plane() -> np.ndarray:
        waves = random.normal(size=(2, *frequency.shape))
        values = np.fft.irfft2((waves[0] + 1j * waves[1]) / frequency, (CANVAS, CANVAS))
        return values / values.std()

    light = plane()
    channels = [light + 0.4 * plane() for _ in range(3)]
    return np.clip(127 + 50 * np.stack(channels, axis=-1), 0, 255).astype(np.uint8)


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Capacity and pipeline, one after the other in each round, the first of them changing."""
    config = DatasetConfig(
        name=Source.image_folder,
        path=str(folder),
        image_size=options.size,
        memory_limit=0,
        validation_fraction=0,
        test_fraction=0.01,
    )
    dataset = load_dataset(config)
    images, process = dataset.train.images, psutil.Process()
    if not isinstance(images, FileImages):
        raise TypeError(f"Expected streamed images, received {type(images)}.")
    rounds, memory = [], []
    for epoch in range(options.epochs):
        order = epoch_order(0, epoch, len(dataset.train))
        memory.append(0.0)
        for number, chosen in enumerate(np.array_split(order, options.rounds)):
            batches = np.array_split(chosen, max(1, len(chosen) // options.batch_size))
            sides = {
                "capacity": lambda chosen=chosen: capacity(images, chosen, options.size),
                "pipeline": lambda batches=batches: pipeline(images, batches, memory, process),
            }
            names = list(sides)[:: 1 if number % 2 else -1]
            rounds.append({name: timed(sides[name], len(chosen)) for name in names})
            print(_line(epoch, number, rounds[-1], memory[-1]), flush=True)
    sizes = [file.stat().st_size for file in images.files[:1000]]
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "hardware": {
            "processor": processor(),
            "cores": cpu_count(),
            "memory_gib": round(psutil.virtual_memory().total / 2**30),
        },
        "versions": {
            "python": platform.python_version(),
            "pillow": PIL.__version__,
            "libjpeg_turbo": features.version_feature("libjpeg_turbo"),
            "numpy": np.__version__,
        },
        "images": options.images,
        "bytes_per_image": round(statistics.mean(sizes)),
        "size": options.size,
        "batch_size": options.batch_size,
        "epochs": options.epochs,
        "ratio": quartiles([one["pipeline"]["rate"] / one["capacity"]["rate"] for one in rounds]),
        "ratio_per_cpu_second": quartiles(
            [one["pipeline"]["rate_cpu"] / one["capacity"]["rate_cpu"] for one in rounds]
        ),
        "images_per_second": {
            name: quartiles([one[name]["rate"] for one in rounds]) for name in ("capacity", "pipeline")
        },
        "images_per_cpu_second": {
            name: quartiles([one[name]["rate_cpu"] for one in rounds]) for name in ("capacity", "pipeline")
        },
        "largest_memory_mib": [round(largest / 2**20, 1) for largest in memory],
        "rounds": rounds,
    }


def capacity(images: FileImages, chosen: np.ndarray, size: int) -> None:
    """Decode on all cores, in no order, and keep nothing."""
    files = iter([images.files[position] for position in chosen])

    def work() -> None:
        for file in files:  # shared: whoever is free takes the next
            decode_image(file, size, 3)

    with ThreadPoolExecutor(cpu_count()) as pool:
        for task in [pool.submit(work) for _ in range(cpu_count())]:
            task.result()


def pipeline(images: FileImages, batches: Sequence[np.ndarray], memory: list[float], process: psutil.Process) -> None:
    """Take batches as the training loop takes them."""
    for batch, chosen in zip(images.prefetch(batches), batches, strict=True):
        if batch.shape != (len(chosen), *images.shape[1:]):
            raise ValueError(f"Expected {len(chosen)} images, received {batch.shape}.")
        memory[-1] = max(memory[-1], process.memory_info().rss)


def timed(side: Callable[[], None], images: int) -> dict[str, float]:
    """Images per second of wall clock and of processor time."""
    wall, cpu = time.perf_counter(), time.process_time()
    side()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"rate": images / wall, "rate_cpu": images / cpu}


def quartiles(values: Sequence[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
    return {"median": round(middle, 4), "lower": round(low, 4), "upper": round(high, 4)}


def processor() -> str:
    """Name of the processor."""
    return processor_info("model name") or platform.machine()


def _line(epoch: int, number: int, one: dict[str, dict[str, float]], memory: float) -> str:
    ratio = one["pipeline"]["rate"] / one["capacity"]["rate"]
    rates = "  ".join(f"{name} {one[name]['rate']:6.1f}/s" for name in ("capacity", "pipeline"))
    return f"epoch {epoch + 1} round {number + 1:2}  {rates}  ratio {ratio:.3f}  memory {memory / 2**20:.0f} MiB"


def show(result: dict[str, Any]) -> None:
    """Print what was found."""

    def spread(values: dict[str, float]) -> str:
        return f"{values['median']:.3f} (quartiles {values['lower']:.3f} to {values['upper']:.3f})"

    print(f"pipeline / capacity, images per second            {spread(result['ratio'])}")
    print(f"pipeline / capacity, images per processor second  {spread(result['ratio_per_cpu_second'])}")
    print(f"largest memory in each epoch, MiB               {result['largest_memory_mib']}")


if __name__ == "__main__":
    os.nice(10)
    raise SystemExit(main())
