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
from tnt_exp.config.dataset import DatasetConfig, Source
from tnt_exp.data.dataset import Split, make_split
from tnt_exp.errors import UserError
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
    config = _locate_data(finished, apply_overrides(finished.config, overrides))
    own = config.dataset == _locate_data(finished, finished.config).dataset
    _check(finished, config, own=own)
    return config, own


def read_images(finished: FinishedRun, config: Config, *, own: bool) -> TestImages:
    """Return the images, with the class numbers of the model, or raise `UserError`: none, or of other classes."""
    chosen = _own_test_images(finished, config) if own else _other_test_images(finished, config)
    return replace(chosen, split=_relabel(finished.class_names, chosen))


def evaluate_on(
    finished: FinishedRun,
    load: Callable[[], "Classifier"],
    data: "Sequence[str] | tuple[np.ndarray, np.ndarray] | str | None",
) -> dict[str, float]:
    """Return the metrics of `Run.evaluate`, or raise `UserError`; the model is loaded once the images are read."""
    config = finished.config
    if isinstance(data, tuple):
        split = make_split(data[0], np.asarray(data[1], np.int32), len(finished.class_names), "data")
    else:
        overrides = ["dataset=image_folder", f"dataset.path={data}"] if isinstance(data, str) else data or []
        config, own = configure(finished, overrides)
        split = read_images(finished, config, own=own).split
    found = evaluate(load(), split, config.trainer.batch_size, flip=config.flips_test_images)
    metrics = {name.removeprefix("test/"): value for name, value in found.metrics("test")}
    return {**metrics, "calibration_error": found.calibration_error()}


def _locate_data(finished: FinishedRun, config: Config) -> Config:
    """Return the configuration with `dataset.path` found again.

    A relative path counts from the working folder; where it does not exist there, from the folder in which the run was
    started, or from the project folder above `multirun/`.
    """
    given = config.dataset.path
    if not given or Path(given).expanduser().is_absolute() or Path(given).exists():
        return config
    starts = provenance.read(finished.path)
    folders = [Path(start["cwd"]) for start in starts[-1:]]
    folders += [parent.parent for parent in finished.path.parents if parent.name == "multirun"][:1]
    found = next((folder / given for folder in folders if (folder / given).exists()), None)
    if found is None:
        tried = ", ".join(str(folder / given) for folder in dict.fromkeys([Path.cwd(), *folders]))
        raise UserError(f"dataset.path={given}: expected the images of the run, found none at {tried}; correct it.")
    return replace(config, dataset=replace(config.dataset, path=str(found)))


def _own_test_images(finished: FinishedRun, config: Config) -> TestImages:
    """Return the run's own test images, also if its folder has changed since, or raise `UserError`: none is left."""
    recorded = RunFolder(finished.path).read_dataset()
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
    """Return the test part of another data set, or all its images; `UserError`: the run was trained on all of them."""
    if config.dataset.name is not Source.image_folder:
        dataset = data.load_dataset(config.dataset)
        return TestImages(dataset.name, dataset.test, dataset.class_names, dataset.digest)
    from tnt_exp.data.sources.image_folder import ImageFolderSource

    raw = ImageFolderSource(classes=1).read(config.dataset)  # it may have a single class: it is not trained on
    part = raw.test or raw.train
    split = part.take(np.arange(len(part.labels)))
    notes = []
    seen = _trained_on(finished)
    if split.files is not None and seen:
        fresh = np.array([record.sha256 not in seen for record in split.files])
        if not fresh.any():
            raise UserError(
                f"dataset.path={config.dataset.path}: expected images that the run was not trained on, found none."
            )
        if not fresh.all():
            notes.append(f"{int((~fresh).sum())} of {len(fresh)} images are left out: the run was trained on them")
            split = _keep(split, np.flatnonzero(fresh))
    digest = data.dataset_digest([None, None, split], raw.class_names)
    return TestImages(config.dataset.name.value, split, raw.class_names, digest, tuple(notes))


def _keep(split: Split, positions: np.ndarray) -> Split:
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


def _check(finished: FinishedRun, config: Config, *, own: bool) -> None:
    """Find errors before data are read."""
    if own or config.dataset.name is not Source.image_folder:
        data.validate(config.dataset)
    elif not Path(str(config.dataset.path)).expanduser().is_dir():
        raise UserError(f"dataset.path={config.dataset.path}: expected a folder of images, found none.")
    info, channels, classes = data.dataset_info(config.dataset), finished.image_shape[2], len(finished.class_names)
    if info.channels not in (None, channels):
        raise UserError(
            f"dataset={config.dataset.name.value}: expected images of {channels} channels, as the model was trained "
            f"on, received {info.channels}."
        )
    if info.classes is not None and info.classes > classes:
        raise UserError(f"dataset={config.dataset.name.value}: expected {classes} classes, received {info.classes}.")


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
    from tnt_exp.data.sources.image_folder import read_files

    root = Path(str(config.path)).expanduser()
    files = recorded["files"]["test"]
    split = read_files(root, [name for name, _, _ in files], np.array([label for *_, label in files], np.int32), config)
    hashes = {name: sha256 for name, sha256, _ in files}
    same = np.array([record.sha256 == hashes[record.path] for record in split.files or ()], bool)
    if not same.any():
        raise UserError(f"dataset.path={config.path}: expected the run's test images, found none of its {len(files)}.")
    notes = []
    if same.sum() < len(files):
        notes.append(f"{len(files) - int(same.sum())} of the run's {len(files)} test images have changed or are gone")
        split = _keep(split, np.flatnonzero(same))
    known = {name for part in recorded["files"].values() for name, _, _ in part}
    added = _count_added(config, known)
    if added:
        notes.append(f"the folder has changed: {added} images were added since training; the run's own are measured")
    names = tuple(recorded["class_names"])
    return TestImages(config.name.value, split, names, recorded["digest"], tuple(notes))


def _count_added(config: DatasetConfig, known: set[str]) -> int:
    from tnt_exp.data.sources.folder_layout import folder_layout, list_images

    root = Path(str(config.path)).expanduser()
    layout = folder_layout(root, classes=1)
    folders = [folder for part in (layout.train, layout.validation, layout.test) for _, folder in part or ()]
    files = [str(file.relative_to(root)) for folder in folders for file in list_images(folder).files]
    return sum(name not in known for name in files)


def _trained_on(finished: FinishedRun) -> set[str]:
    """Return the SHA-256 of the files that the run was trained and validated on."""
    files = RunFolder(finished.path).read_dataset().get("files", {})
    return {sha256 for part in ("train", "validation") for _, sha256, _ in files.get(part, ())}
