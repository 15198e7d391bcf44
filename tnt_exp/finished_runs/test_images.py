"""The images on which a finished run is evaluated: never those on which it was trained."""

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tnt_exp import data, provenance
from tnt_exp.atomic_files import JsonObject, read_json
from tnt_exp.config import Config
from tnt_exp.config.dataset import DatasetConfig, OnError, Source
from tnt_exp.config.overrides import parse_override, quote
from tnt_exp.data.dataset import Split, class_numbers, make_split
from tnt_exp.data.sources.folder_layout import folder_layout, list_images
from tnt_exp.data.sources.image_folder import ImageFolderSource, read_files
from tnt_exp.errors import UserError, printable_name
from tnt_exp.evaluation import evaluate
from tnt_exp.finished_runs.find import FinishedRun, apply_overrides
from tnt_exp.run_folder import RunFolder

if TYPE_CHECKING:
    from tnt_exp.model.classifier import Classifier


@dataclass(frozen=True)
class TestImages:
    """What a run is evaluated on: (a part of) a data set."""

    __test__ = False  # not a test class of pytest

    name: str
    split: Split
    class_names: tuple[str, ...]
    digest: str
    notes: tuple[str, ...] = ()  # what a reader of the result must know, one line each


def configure(finished: FinishedRun, overrides: Sequence[str]) -> tuple[Config, bool]:
    """Return the configuration of an evaluation, and whether it is of the own test images, or raise `UserError`."""
    config = apply_overrides(finished.config, overrides)
    dataset = replace(config.dataset, path=_locate(finished, config.dataset.path, required=True))
    if dataset.name is Source.image_folder:  # it is read as the run's images were, unless the overrides say otherwise
        size, _, channels = finished.image_shape
        if any(parse_override(text).key_or_group == "dataset.channels" for text in overrides):
            channels = dataset.channels
        dataset = replace(dataset, image_size=dataset.image_size or size, channels=channels)
    config, own = replace(config, dataset=dataset), dataset == _as_trained(finished, dataset)
    _check(finished, dataset, own=own)
    return config, own


def read_images(finished: FinishedRun, config: Config, *, own: bool) -> TestImages:
    """Return the images, with the class numbers of the model, or raise `UserError`: none, or of other classes."""
    chosen = _own_test_images(finished, config) if own else _other_test_images(finished, config)
    _require_channels(finished, f"dataset={chosen.name}", chosen.split.images.shape[3])
    return replace(chosen, split=_relabel(finished.class_names, chosen))


def training_images(finished: FinishedRun, config: Config) -> Split:
    """Return the images that the run was trained on; if the configuration has others, their training part."""
    trained, recorded = _as_trained(finished, config.dataset), RunFolder(finished.path, create=False).read_dataset()
    if trained and recorded.get("files"):
        return _recorded_images(trained, recorded, "train")
    return data.load_dataset(trained or config.dataset).train


def evaluate_on(
    finished: FinishedRun,
    load: Callable[[], "Classifier"],
    data: "Sequence[str] | tuple[np.ndarray, np.ndarray] | str | None",
) -> dict[str, float]:
    """Return the metrics of `Run.evaluate`, or raise `UserError`; the model is loaded once the images are read."""
    config = finished.config
    if isinstance(data, str):
        data = ["dataset.name=image_folder", f"dataset.path={quote(data)}"]
    if isinstance(data, tuple):
        images = np.asarray(data[0])
        received = images.shape[3] if images.ndim == 4 else f"an array of shape {images.shape}"
        _require_channels(finished, "data", received)
        labels = class_numbers(np.asarray(data[1]), "data: labels")
        split = make_split(images, labels, len(finished.class_names), "data")
    else:
        config, own = configure(finished, data or [])
        split = read_images(finished, config, own=own).split
    found = evaluate(load(), split, config.trainer.batch_size, flip=config.flips_test_images)
    metrics = {name.removeprefix("test/"): value for name, value in found.metrics("test")}
    return {**metrics, "calibration_error": found.calibration_error()}


def _locate(finished: FinishedRun, given: str | None, *, required: bool) -> str | None:
    """Return a `dataset.path`, found again; if nothing is there, unchanged, or with `required` raise `UserError`.

    A relative path counts from the working folder; where it does not exist there, from the folder in which the run was
    started, or from the project folder above `multirun/`.
    """
    if not given or Path(given).expanduser().is_absolute() or Path(given).exists():
        return given
    folders = provenance.working_folders(finished.path)
    found = next((str(folder / given) for folder in folders if (folder / given).exists()), None)
    if found is None and required:
        tried = ", ".join(str(folder / given) for folder in dict.fromkeys([Path.cwd(), *folders]))
        raise UserError(f"dataset.path={given}: expected the images of the run, found none at {tried}; correct it.")
    return found or given


def _as_trained(finished: FinishedRun, dataset: DatasetConfig) -> DatasetConfig | None:
    """Return the section by which the run split the same images; None: these are other images."""
    trained = finished.config.dataset
    paths = (_locate(finished, trained.path, required=False), dataset.path)
    if trained.name is not dataset.name or len({path and Path(path).expanduser().resolve() for path in paths}) > 1:
        return None
    return replace(trained, path=dataset.path, memory_limit=dataset.memory_limit, on_error=dataset.on_error)


def _own_test_images(finished: FinishedRun, config: Config) -> TestImages:
    """Return the run's own test images, also if its folder has changed since, or raise `UserError`: none is left."""
    recorded = RunFolder(finished.path, create=False).read_dataset()
    if "test" in recorded.get("files", {}):
        return _recorded_test_images(finished, config.dataset, recorded)
    dataset = data.load_dataset(config.dataset)
    digest = recorded.get("digest") or (provenance.read(finished.path) or [{}])[-1].get("dataset_digest")
    notes = []
    if digest is None:
        notes.append("dataset.json and provenance/starts.json do not say whether the images are those of training")
    elif digest != dataset.digest:
        notes.append(
            "the images are not those of training (their digest differs): images that the run was trained on may be "
            "among those measured"
        )
    return TestImages(dataset.name, dataset.test, dataset.class_names, dataset.digest, tuple(notes))


def _other_test_images(finished: FinishedRun, config: Config) -> TestImages:
    """Return the test part of other images, or all of a folder, but none of training, or raise `UserError`: none."""
    name, seen, notes = config.dataset.name, _trained_on(finished), list[str]()
    trained = _as_trained(finished, config.dataset)
    if trained is not None and not seen:  # its images are known by their places: are they those of training?
        notes += _own_test_images(finished, replace(config, dataset=trained)).notes
        split, left_out, class_names = data.load_test_split(config.dataset, trained)
    elif name is not Source.image_folder:
        dataset = data.load_dataset(config.dataset)
        return TestImages(dataset.name, dataset.test, dataset.class_names, dataset.digest)
    else:
        raw = ImageFolderSource(classes=1).read(config.dataset)  # it may have a single class: it is not trained on
        part, class_names = raw.test or raw.train, raw.class_names
        split = part.take(np.arange(len(part.labels)))
        fresh = np.array([record.sha256 not in seen for record in split.files or ()])
        split, left_out = _keep(split, fresh), int((~fresh).sum())
    if not split:
        raise UserError(f"dataset={name.value}: expected images that the run was not trained on, found none.")
    if left_out:
        notes.append(f"{left_out} of {left_out + len(split)} images are left out: the run was trained on them")
    digest = data.dataset_digest([None, None, split], class_names)
    return TestImages(name.value, split, class_names, digest, tuple(notes))


def _keep(split: Split, chosen: np.ndarray) -> Split:
    """Return the images whose files are chosen, bool (images,)."""
    if chosen.all():
        return split
    positions = np.flatnonzero(chosen)
    files = tuple((split.files or ())[position] for position in positions)
    content = hashlib.sha256(b"".join(bytes.fromhex(file.sha256) for file in files)).digest()
    return Split(split.images[positions], split.labels[positions], content, files)


def evaluation_label(finished: FinishedRun, config: Config) -> str:
    """Return a name for other images, which MLflow takes in a metric's name and no other images of the run have."""
    path = config.dataset.path
    name = (Path(path).stem or "images") if path else config.dataset.name.value
    label = re.sub(r"[^\w .-]", "_", name)
    before = read_json(finished.output / f"evaluation_{label}" / "evaluation.json", skip=True) or {}
    if before.get("path", path) != path:
        label += f"_{hashlib.sha256(str(path).encode()).hexdigest()[:6]}"
    return label


def _check(finished: FinishedRun, dataset: DatasetConfig, *, own: bool) -> None:
    """Find errors before data are read."""
    if own or dataset.name is not Source.image_folder:
        data.validate(dataset)
    else:
        ImageFolderSource(classes=1).validate(dataset)
    info, classes = data.dataset_info(dataset), len(finished.class_names)
    _require_channels(finished, f"dataset={dataset.name.value}", info.channels)
    if info.classes is not None and info.classes > classes:
        raise UserError(f"dataset={dataset.name.value}: expected {classes} classes, received {info.classes}.")


def _require_channels(finished: FinishedRun, source: str, received: int | str | None) -> None:
    channels = finished.image_shape[2]
    if received not in (None, channels):
        raise UserError(
            f"{source}: expected images of {channels} channels, as the model was trained on, received {received}."
        )


def _relabel(class_names: Sequence[str], chosen: TestImages) -> Split:
    """Return the images, labelled with the model's class numbers."""
    if tuple(class_names) == chosen.class_names:
        return chosen.split
    unknown = [name for name in chosen.class_names if name not in class_names]
    if unknown:
        known = ", ".join([*class_names[:5], *["..."] * (len(class_names) > 5)])
        raise UserError(
            f"dataset={chosen.name}: expected the model's classes ({known}), received others: {', '.join(unknown[:5])}."
        )
    numbers = np.array([class_names.index(name) for name in chosen.class_names], np.int32)
    return replace(chosen.split, labels=numbers[chosen.split.labels])


def _recorded_test_images(finished: FinishedRun, config: DatasetConfig, recorded: JsonObject) -> TestImages:
    """Read the files that were the run's test images, as far as they are still there and unchanged."""
    split, total = _recorded_images(config, recorded, "test"), len(recorded["files"]["test"])
    notes = []
    if len(split) < total:
        notes.append(f"{total - len(split)} of the run's {total} test images have changed or are gone")
    if added := _count_added(finished, config, recorded):
        notes.append(f"the folder has changed: {added} images were added since training; the run's own are measured")
    return TestImages(config.name.value, split, tuple(recorded["class_names"]), recorded["digest"], tuple(notes))


def _recorded_images(config: DatasetConfig, recorded: JsonObject, part: str) -> Split:
    """Read those files of a split of the run that are still there, readable and unchanged."""
    root, files = Path(str(config.path)).expanduser(), recorded["files"][part]
    labels = np.array([label for *_, label in files], np.int32)
    split = read_files(root, [name for name, _, _ in files], labels, replace(config, on_error=OnError.skip))
    hashes = {name: sha256 for name, sha256, _ in files}
    same = np.array([record.sha256 == hashes[record.path] for record in split.files or ()])
    if not same.any():
        raise UserError(f"dataset.path={config.path}: expected the run's {part} images, found none of {len(files)}.")
    return _keep(split, same)


def _count_added(finished: FinishedRun, config: DatasetConfig, recorded: JsonObject) -> int:
    """Return how many images the folder has gained; 0 for a run of an older version that perhaps left some out."""
    root, trained = Path(str(config.path)).expanduser(), finished.config.dataset
    layout = folder_layout(root, classes=1)
    selective = trained.train_limit or (trained.folds and layout.test) or trained.on_error is OnError.skip
    if selective and "listed" not in recorded:
        return 0
    known = {name for part in recorded["files"].values() for name, _, _ in part}
    folders = [folder for part in (layout.train, layout.validation, layout.test) for _, folder in part or ()]
    files = [printable_name(file.relative_to(root)) for folder in folders for file in list_images(folder).files]
    unused = int(recorded.get("listed", len(known))) - len(known)
    return max(0, sum(name not in known for name in files) - unused)


def _trained_on(finished: FinishedRun) -> set[str]:
    """Return the SHA-256 of the files that the run was trained and validated on."""
    files = RunFolder(finished.path, create=False).read_dataset().get("files", {})
    return {sha256 for part in ("train", "validation") for _, sha256, _ in files.get(part, ())}
