"""What a store holds, in a form in which two stores can be compared, and a store with something of everything."""

import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import mlflow
from mlflow.artifacts import download_artifacts
from mlflow.entities import LoggedModelOutput, Metric
from tracking.fake_folder import FakeFolder

COPIED = "copied_from"


def fill_store(uri: str, folder: Path) -> None:
    """Two runs, a sweep of two trials, and a sweep in progress."""
    client = mlflow.MlflowClient(uri)
    run = FakeFolder(folder / "run", {"model": {"depth": 3, **{f"key{number}": number for number in range(120)}}}, True)
    run_id = run.begin(uri, "first", dataset="digits")
    run.record(1, 30)
    run.finish()
    assert run.sync() is None
    many = [Metric("system/cpu", number / 7, 1_000_000 + number, number) for number in range(1500)]
    client.log_batch(run_id, metrics=many[:1000])
    client.log_batch(
        run_id, metrics=[*many[1000:], Metric("odd", float("nan"), 5, 0), Metric("odd", float("inf"), 6, 1)]
    )
    client.log_batch(run_id, metrics=[Metric("twice", value, 7, 0) for value in (0.1, 0.2)])
    _log_model(client, run_id, folder)
    failed = FakeFolder(folder / "failed")
    failed.begin(uri, "second")
    failed.record(1, 2)
    failed.finish("FAILED", error="ValueError: no")
    assert failed.sync() is None
    for name, last in (("sweep", "FINISHED"), ("open", "RUNNING")):
        parent = client.create_run(_experiment(client), tags={"sweep_id": name, "sweep": "parent"}, run_name=name)
        children = [
            client.create_run(
                parent.info.experiment_id,
                tags={"mlflow.parentRunId": parent.info.run_id, "sweep_job": str(job)},
                run_name=f"{name}_{job}",
            )
            for job in range(2)
        ]
        best = children[1].info
        client.set_tag(parent.info.run_id, "best_run_id", best.run_id)
        link = f"Best: [job 1](#/experiments/{best.experiment_id}/runs/{best.run_id})"
        client.set_tag(parent.info.run_id, "mlflow.note.content", link)
        for run, status in ((parent, "FINISHED"), (children[0], "KILLED"), (children[1], last)):
            client.log_metric(run.info.run_id, "val/accuracy", 0.5)
            client.set_terminated(run.info.run_id, status)


def _experiment(client: mlflow.MlflowClient) -> str:
    found = client.get_experiment_by_name("first")
    assert found is not None
    return str(found.experiment_id)


def _log_model(client: mlflow.MlflowClient, run_id: str, folder: Path) -> None:
    model = client.create_logged_model(
        _experiment(client), "model", run_id, {"told": f"{run_id}/5"}, {"depth": "3"}, "pyfunc"
    )
    (folder / "model/data").mkdir(parents=True)
    (folder / "model/MLmodel").write_text(f"flavors: {{}}\nmodel_id: {model.model_id}\nrun_id: {run_id}\n")
    (folder / "model/data/weights").write_bytes(bytes(range(256)))
    client.log_model_artifacts(model.model_id, str(folder / "model"))
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, 5)])
    client.log_batch(run_id, metrics=[Metric("test/accuracy", 0.5, 9_000, 5, model_id=model.model_id)])


def content(uri: str, only: Collection[str] | None = None) -> dict[str, Any]:
    """Everything of the runs by the id of the run where each began; ids of this store are replaced by those.

    `only` are those ids that are asked for; None: all.
    """
    client = mlflow.MlflowClient(uri)
    experiments = {each.experiment_id: each.name for each in client.search_experiments()}
    found = [run for one in experiments for run in client.search_runs([one], max_results=10_000)]
    origin = {run.info.run_id: run.data.tags.get(COPIED, run.info.run_id) for run in found}
    assert len(set(origin.values())) == len(found)  # no doubles

    def neutral(tags: dict[str, str]) -> dict[str, str]:
        texts = {key: value for key, value in tags.items() if key != COPIED}
        for own, first in origin.items():
            texts = {key: value.replace(own, first) for key, value in texts.items()}
        for number in experiments:
            texts = {key: value.replace(f"#/experiments/{number}/", "#/") for key, value in texts.items()}
        return texts

    def model(model_id: str) -> dict[str, Any]:
        logged = client.get_logged_model(model_id)
        with tempfile.TemporaryDirectory() as folder:
            here = Path(download_artifacts(artifact_uri=logged.artifact_location, dst_path=folder, tracking_uri=uri))
            assert logged.model_id in (here / "MLmodel").read_text()
            data = (here / "data/weights").read_bytes()
        metrics = sorted((point.key, point.value, point.timestamp, point.step) for point in logged.metrics)
        tags = neutral(logged.tags)
        return {"name": logged.name, "type": logged.model_type, "status": str(logged.status), "data": data} | {
            "params": logged.params,
            "tags": tags,
            "metrics": metrics,
        }

    def files(run_id: str) -> dict[str, bytes]:
        with tempfile.TemporaryDirectory() as folder:
            for item in client.list_artifacts(run_id):
                client.download_artifacts(run_id, item.path, folder)
            here = Path(folder)
            return {str(f.relative_to(here)): f.read_bytes() for f in here.rglob("*") if f.is_file()}

    def history(run_id: str, key: str) -> list[tuple[str, int, int]]:
        points = client.get_metric_history(run_id, key)
        return sorted((repr(point.value), point.timestamp, point.step) for point in points)

    return {
        origin[run.info.run_id]: {
            "experiment": experiments[run.info.experiment_id],
            "info": (run.info.run_name, run.info.status, run.info.start_time, run.info.end_time),
            "params": run.data.params,
            "tags": neutral(run.data.tags),
            "metrics": {key: history(run.info.run_id, key) for key in run.data.metrics},
            "inputs": sorted(
                (
                    given.dataset.name,
                    given.dataset.digest,
                    given.dataset.source,
                    given.dataset.schema,
                    given.tags[0].value,
                )
                for given in run.inputs.dataset_inputs
            ),
            "files": files(run.info.run_id),
            "models": [(output.step, model(output.model_id)) for output in run.outputs.model_outputs],
        }
        for run in found
        if only is None or origin[run.info.run_id] in only
    }
