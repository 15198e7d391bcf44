"""Sweeps on this machine: failures, resume, stops. Real processes, a fake training."""

import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import preloaded
import psutil
import pytest

from tnt_exp.config.compose import compose
from tnt_exp.sweeps.study import SweepStudy
from tnt_exp.sweeps.trial import TrialSpec

GRID = ["model.embed_dim=32,48,64", "model.inner_dim=8,16"]


def jobs_alive(folder: Path) -> list[psutil.Process]:
    """Processes that run a job of this folder."""
    found = []
    for process in psutil.process_iter():
        try:
            line = process.cmdline()
        except psutil.Error:
            continue
        if any(part.endswith("fake_train.py") for part in line) and str(folder) in line[-1]:
            found.append(process)
    return found


def test_a_grid_is_run_over_slots_and_the_best_is_named(folder: Any) -> None:
    text = folder.run(*GRID, "launcher.slots=2")
    results = folder.results()
    assert sorted(results) == [0, 1, 2, 3, 4, 5]
    assert all(result["status"] == "FINISHED" for result in results.values())
    assert "6 finished" in text
    assert (
        "2 are tied as the best: model.embed_dim=64 model.inner_dim=8, model.embed_dim=64 model.inner_dim=16: " in text
    )
    assert "tnt-exp train model=tiny" in text
    assert folder.study()["ended"]
    status = folder.run("status", str(folder.sweep), verb="sweep")
    assert "(ended): 6 finished" in status
    assert status.splitlines()[0].split()[:5] == [
        "job",
        "model.embed_dim",
        "model.inner_dim",
        "state",
        "best/val/accuracy",
    ]


def test_five_ways_to_fail_leave_the_other_seven_alone(folder: Any) -> None:
    arguments = ["seed=range(12)", "tracking.run_name=failures", "launcher.slots=2"]
    limits = ["launcher.memory=0.4", "launcher.timeout=15"]
    text = folder.run(*arguments, *limits, code=1)
    results = folder.results()
    assert sum(result["status"] == "FINISHED" for result in results.values()) == 7
    causes = {job: results[job]["cause"] for job in range(5)}
    assert causes == {0: "exit", 1: "error", 2: "signal", 3: "memory", 4: "timeout"}
    failed = [line for line in text.splitlines() if line.startswith("failed ")]
    assert len(failed) == 5
    for job, reason in enumerate(
        ["ended with code 3", "a sum that does not add up", "killed by SIGKILL", "GiB of memory", "launcher.timeout=15"]
    ):
        (line,) = [line for line in failed if f"job {job} " in line]
        assert reason in line
        log = folder.sweep / str(job) / "output.log"
        assert line.endswith(str(log))
        assert log.exists()
    assert "ArithmeticError" in (folder.sweep / "1" / "output.log").read_text()

    begins = folder.begins()
    (folder.sweep / "repaired").touch()
    text = folder.run(*arguments, *limits, "sweep.rerun=failed")
    assert "12 finished" in text
    again = {job for job, count in folder.begins().items() if count > begins[job]}
    assert again == {0, 1, 2, 3, 4}
    assert len(folder.sweeps) == 1


def test_a_failed_point_is_tried_again_in_its_folder(folder: Any) -> None:
    text = folder.run("seed=0,1,5", "tracking.run_name=failures", "sweep.retries=2", code=1)
    assert folder.begins() == {0: 3, 1: 3, 2: 1}
    assert text.count("| retry |") == 4


def test_fail_fast_starts_nothing_after_a_failure(folder: Any) -> None:
    text = folder.run("seed=1,6,7", "tracking.run_name=failures", "sweep.fail_fast=true", code=1)
    assert folder.begins() == {0: 1}
    assert "1 failed, 2 to run" in text


def test_killed_at_ten_random_moments_every_point_finishes_once(folder: Any) -> None:
    arguments = [*GRID, "trainer.epochs=6", "tracking.run_name=sleep0.3", "launcher.slots=2"]
    chance = random.Random(7)
    kills = 0
    while kills < 10:
        process = folder.start(*arguments)
        time.sleep(chance.uniform(0.2, 2.8))
        process.kill()
        process.communicate()
        kills += 1
        end = time.monotonic() + 5
        while jobs_alive(folder.path) and time.monotonic() < end:
            time.sleep(0.02)
        assert jobs_alive(folder.path) == []
        if folder.sweeps and folder.study()["ended"]:
            break
    if not (folder.sweeps and folder.study()["ended"]):  # on a busy machine all ten may come before the folder
        folder.run(*arguments)
    assert len(folder.sweeps) == 1
    results = folder.results()
    assert {job: result["status"] for job, result in results.items()} == dict.fromkeys(range(6), "FINISHED")
    # Nothing was started again after it had finished.
    assert {job: result["begins"] for job, result in results.items()} == folder.begins()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_sweep_stops_its_jobs_and_continues_later(folder: Any, number: int, code: int) -> None:
    arguments = ["seed=1,2,3", "trainer.epochs=2", "tracking.run_name=sleep0.4"]
    process = folder.start(*arguments)
    while not list(folder.path.glob("multirun/sweeps/*/1/metrics.csv")):
        time.sleep(0.05)
        assert process.poll() is None, process.communicate()[0]
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == code
    assert jobs_alive(folder.path) == []
    assert folder.results()[1]["cause"] == "stopped"
    assert folder.study()["ended"] is None
    assert "(interrupted): 1 finished, 2 to run" in folder.run("status", str(folder.sweep), verb="sweep")
    text = folder.run("resume", str(folder.sweep), verb="sweep")
    assert "3 finished" in text
    assert folder.begins() == {0: 1, 1: 2, 2: 1}


def test_the_same_command_begins_anew_after_the_end_and_more_values_add_points(folder: Any) -> None:
    folder.run("seed=1,2")
    folder.run("seed=1,2")
    first, second = folder.sweeps
    text = folder.run("seed=1,2,3", f"hydra.sweep.dir={second}")
    assert "2 finished, 1 new" in text
    assert len(list(first.glob("*/result.json"))) == 2
    assert len(list(second.glob("*/result.json"))) == 3
    assert [len((second / str(job) / "begins").read_text().splitlines()) for job in range(3)] == [1, 1, 1]


def test_what_was_typed_last_counts_also_where_the_project_was_moved(folder: Any) -> None:
    folder.run("model.embed_dim=32,48,64", "sweep.objective=best/val/accuracy")  # the name that MLflow shows
    assert folder.study()["objective"] == "val/accuracy"
    assert "expected sweep.KEY" in folder.run("resume", str(folder.sweep), "tracking=default", verb="sweep", code=2)
    folder.path = folder.path.rename(folder.path.with_name("moved"))
    place = f"hydra.sweep.dir={folder.sweep}"
    text = folder.run("model.embed_dim=32,48,64,80", place, "sweep.objective=begins", "sweep.direction=minimize")
    assert "4 are tied as the best" in text
    assert (folder.study()["objective"], folder.study()["direction"]) == ("begins", "minimize")
    assert "4 finished" in folder.run("resume", str(folder.sweep), verb="sweep")
    assert folder.begins() == {0: 1, 1: 1, 2: 1, 3: 1}


def test_a_trial_that_is_refused_says_why(folder: Any) -> None:
    study = SweepStudy.new(
        folder.path / "sweep", command=["..."], config_dir=None, search=None, objective=None, direction="maximize"
    )
    overrides = ["model=tiny", "dataset=image_folder", f"dataset.path={folder.path}", "dataset.image_size=8"]
    trial = study.add_trial(TrialSpec(overrides), compose(overrides))
    study.save()
    done = preloaded.run(["run", str(study.folder_of(trial))], folder.path)
    assert done.returncode == 2
    result = study.result(trial)
    assert result
    assert result["status"] == "FAILED"
    assert f"tnt-exp: {result['error']}" in done.stderr


def test_an_interrupted_sweep_takes_in_more_values_of_the_same_command(folder: Any) -> None:
    folder.run("seed=1,0,2", "tracking.run_name=failures", "sweep.fail_fast=true", code=1)
    text = folder.run("seed=1,0,2,7", "tracking.run_name=failures", code=1)
    assert "1 failed, 2 to run, 1 new" in text
    assert len(folder.sweeps) == 1
    assert folder.begins() == {0: 1, 1: 1, 2: 1, 3: 1}


def test_queued_points_do_not_see_later_changes_of_yaml(folder: Any) -> None:
    own = folder.path / "own" / "model"
    own.mkdir(parents=True)
    preset = "defaults: [tiny, _self_]\nembed_dim: {}\n"
    (own / "mine.yaml").write_text(preset.format(32))
    arguments = ["model=mine", "seed=1,2,3", "trainer.epochs=2", "tracking.run_name=sleep0.3", "--config-dir", "own"]
    process = folder.start(*arguments)
    while not list(folder.path.glob("multirun/sweeps/*/0/metrics.csv")):
        time.sleep(0.05)
        assert process.poll() is None, process.communicate()[0]
    (own / "mine.yaml").write_text(preset.format(64))
    process.communicate(timeout=60)
    values = {result["metrics"]["val/accuracy"] for result in folder.results().values()}
    assert max(values) - min(values) < 0.01, "one width"


def test_a_running_sweep_is_not_started_twice(folder: Any) -> None:
    arguments = ["seed=1,2", "tracking.run_name=wait"]
    process = folder.start(*arguments)
    while not list(folder.path.glob("multirun/sweeps/*/0/metrics.csv")):
        time.sleep(0.05)
        assert process.poll() is None, process.communicate()[0]
    text = folder.run(*arguments, code=2)
    assert "received one that is running" in text
    assert "(running)" in folder.run("status", str(folder.sweep), verb="sweep")
    (folder.sweep / "go").touch()
    process.communicate(timeout=60)
    assert process.returncode == 0


def test_each_job_gets_its_share_of_threads_and_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    from tnt_exp.config.sweep import LauncherConfig
    from tnt_exp.sweeps import executors

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    monkeypatch.setattr(executors, "cpu_count", lambda: 8)
    found = executors.device_slots(LauncherConfig())
    assert [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in found] == ["2", "5"]
    assert {slot.environment["OMP_NUM_THREADS"] for slot in found} == {"4"}
    shared = executors.device_slots(LauncherConfig(slots=4))
    assert [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in shared] == ["2", "5", "2", "5"]
    assert shared[0].environment["TF_FORCE_GPU_ALLOW_GROWTH"] == "true"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert executors.device_slots(LauncherConfig())[0].environment == {}
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""


def test_fifty_points_of_a_table_continue_after_sigkill_no_point_twice(folder: Any) -> None:
    rows = [f"{16 + 2 * number},{number % 3}" for number in range(50)]
    (folder.path / "points.csv").write_text("model.embed_dim,seed\n" + "\n".join(rows) + "\n")
    arguments = ["sweep.points=points.csv", "launcher.slots=2"]
    process = folder.start(*arguments)
    while len(folder.results()) < 2 if folder.sweeps else True:
        time.sleep(0.05)
        assert process.poll() is None, process.communicate()[0]
    process.kill()
    process.communicate()
    begun = folder.begins()
    assert 2 <= len(begun) < 10
    # The others ended elsewhere, but for three: fifty processes would take minutes.
    rest = [job for job in range(50) if job not in begun]
    for job in rest[3:]:
        result = {"status": "FINISHED", "metrics": {"val/accuracy": 0.5}}
        (folder.sweep / str(job) / "result.json").write_text(json.dumps(result))
    folder.run(*arguments)
    points = folder.study()["points"]
    assert [(point["params"]["model.embed_dim"], point["params"]["seed"]) for point in points] == [
        tuple(row.split(",")) for row in rows
    ]
    assert {result["status"] for result in folder.results().values()} == {"FINISHED"}
    assert len(folder.results()) == 50
    again = {job for job, number in folder.begins().items() if number > 1}
    assert again <= begun.keys()  # what ran when the sweep was killed
    assert {job for job in folder.begins() if job not in begun} == set(rest[:3])
