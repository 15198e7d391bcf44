"""Tell MLflow that a run begins, or goes on."""

import getpass
from collections.abc import Mapping

import numpy as np

from tnt_exp import provenance
from tnt_exp.config import Config
from tnt_exp.data import Dataset
from tnt_exp.run_folder import RunFolder, flat
from tnt_exp.tracking.store import tracking_uri
from tnt_exp.tracking.tracker import Tracker


def begin(config: Config, folder: RunFolder, dataset: Dataset, tags: Mapping[str, str]) -> Tracker:
    """A tracker of the run that the folder says, or of a new one: with its tags, parameters and data sets.

    Args:
        config: The experiment.
        folder: The run folder; remembers the MLflow run.
        dataset: What is trained on.
        tags: Further tags; `sweep_id` where the run is one of many.

    Raises:
        InputError: The store cannot be reached.
    """
    tracking = config.tracking
    all_tags = {
        "dataset": dataset.name,
        "dataset_digest": dataset.digest,
        "model": config.model.name,
        "backend": config.trainer.backend.value,
        "run_folder": str(folder.path),
        "mlflow.source.name": "tnt-exp train",
        "mlflow.source.type": "LOCAL",
        "mlflow.user": getpass.getuser(),
        **provenance.git(),
        **tags,
    }
    name = tracking.run_name or "_".join(folder.path.parts[-2 if "sweep_id" in tags else -1 :])
    tracker = Tracker.open(folder.path, tracking_uri(tracking.uri), tracking.experiment, name, all_tags)
    folder.write_tracking(tracker.uri, tracker.run_id)
    tracker.params(flat(config))
    for context, split in (("train", dataset.train), ("validation", dataset.validation), ("test", dataset.test)):
        if split is not None:
            source = config.dataset.path or dataset.name
            # MLflow notes type and shape: all that it is given of images, which may be in files.
            images = np.broadcast_to(np.uint8(0), split.images.shape)
            tracker.dataset(dataset.name, dataset.digest, source, context, images, split.labels)
    if tracking.system_metrics:
        tracker.watch_system()
    return tracker
