"""Tell MLflow that a run begins, or goes on."""

import getpass
from collections.abc import Mapping

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
    uri, told = tracking_uri(tracking.uri), folder.read_tracking()
    tracker = Tracker(uri, tracking.experiment, name, all_tags, told["run_id"] if told.get("uri") == uri else None)
    folder.write_tracking(uri, tracker.run_id)
    if not tracker.continued:
        tracker.params(flat(config))
        for context, split in (("train", dataset.train), ("validation", dataset.validation), ("test", dataset.test)):
            if split is not None:
                source = config.dataset.path or dataset.name
                tracker.dataset(dataset.name, dataset.digest, source, context, split.images, split.labels)
    if tracking.system_metrics:
        tracker.watch_system()
    return tracker
