"""Stage `check`: is the installation right?

For each backend: the device that the package finds and a product on it, the tests of model, augmentation, step and
checkpoints on that device, a run on handwritten digits to 98 %, and a run that is stopped and continued.
"""

import ast
import json
import re
import signal
import time
import xml.etree.ElementTree
from pathlib import Path
from typing import Any

from benchmarks.gpu.stage import ROOT, Answer, Stage, end_group, installed, open_process, python

TESTS = ("tests/model", "tests/augmentation", "tests/training")
ACCURACY = 0.98
_ENDING = 20.0  # seconds in which the tests end by themselves, so that their report is written
# Tests compare with float64 and between backends, so products must not round to TF32; some start processes of their
# own on the same device, so no process may take its whole memory.
ENVIRONMENT = {
    "NVIDIA_TF32_OVERRIDE": "0",
    "JAX_DEFAULT_MATMUL_PRECISION": "highest",
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
}

_PROBE = """
import dataclasses, json, sys, time
from tnt_exp.config.compose import compose
from tnt_exp.training.device import prepare_device
backend = sys.argv[1]
found = dataclasses.asdict(prepare_device(compose([f"trainer.backend={backend}"]).trainer))
import keras, numpy
values = numpy.random.default_rng(0).normal(size=(256, 256)).astype("float32")
begin = time.perf_counter()
product = keras.ops.convert_to_numpy(keras.ops.matmul(values, values))
found["product_error"] = float(abs(product - values.astype("float64") @ values).max())
found["product_seconds"] = round(time.perf_counter() - begin, 3)
if backend == "jax":
    import jax
    statistics = jax.devices()[0].memory_stats() or {}
    found["memory_bytes"] = statistics.get("bytes_limit")
elif backend == "torch":
    import torch
    found["memory_bytes"] = torch.cuda.mem_get_info()[1] if torch.cuda.is_available() else None
print(json.dumps(found))
"""


def main(stage: Stage) -> bool:
    """Run the stage; whether everything passed."""
    stage.start()
    for backend in stage.backends:
        _device(stage, backend)
    for backend in stage.backends:
        _digits(stage, backend)
    for backend in stage.backends:
        _tests(stage, backend)
    for backend in stage.backends:
        _continued(stage, backend)
    chosen = [item for name, item in stage.record["items"].items() if name.split("/")[0] in stage.backends]
    return all(item["status"] == "passed" for item in chosen)


def _device(stage: Stage, backend: str) -> None:
    answer = stage.run(python("-c", _PROBE, backend), seconds=120)
    if answer.code != 0:
        stage.add(f"{backend}/device", status="failed", why=answer.why())
        return
    found = json.loads(answer.last_line())
    expected = "gpu" if stage.record["hardware"]["gpus"] else "cpu"
    status = "passed" if found["kind"] == expected and found["product_error"] < 0.1 else "failed"
    why = {} if found["kind"] == expected else {"why": f"expected a {expected}, found a {found['kind']}"}
    stage.add(f"{backend}/device", status=status, seconds=answer.seconds, **why, **found)


def digits(stage: Stage, backend: str, name: str, *overrides: str) -> list[str]:
    """The command of a run on handwritten digits."""
    settings = [f"trainer.backend={backend}", f"run.name={name}", "tracking=off", *overrides]
    if stage.data is not None and (stage.data / "digits.npz").exists():
        settings += ["dataset=npz", f"dataset.path={stage.data / 'digits.npz'}"]
    return python("-m", "tnt_exp", "train", "experiment=digits", *settings)


def folder_of(name: str) -> Path:
    """Where a named run is."""
    return ROOT / "multirun" / "runs" / name


def _digits(stage: Stage, backend: str) -> None:
    # On a processor PyTorch's eager step takes a quarter of an hour for all 40 epochs.
    short = ["trainer.epochs=10"] if stage.small else []
    name = f"gpu_digits_{backend}_{int(time.time())}"
    answer = stage.run(digits(stage, backend, name, *short))
    file = folder_of(name) / "result.json"
    if answer.code != 0 or not file.exists():
        stage.add(f"{backend}/digits", status="failed", why=answer.why())
        return
    result = json.loads(file.read_text())
    accuracy = result["metrics"]["test/accuracy"]
    stage.add(
        f"{backend}/digits",
        status="passed" if accuracy >= ACCURACY else "failed",
        accuracy=round(accuracy, 4),
        **{key: result[key] for key in ("first_step_seconds", "train_seconds", "total_seconds", "images_per_second")},
        hardware=result["hardware"],
    )


def _tests(stage: Stage, backend: str) -> None:
    if not installed("pytest", "pytest_timeout", "hypothesis"):
        stage.add(f"{backend}/tests", status="left out", why="needs pytest, pytest-timeout and hypothesis")
        return
    report = stage.output / f"tests_{backend}.xml"
    # The plugins that are needed and no others: an environment may hold some that warn, which is an error in tests.
    seconds = stage.left / 2
    options = ["-q", "-m", "backend and not peers", f"--junitxml={report}", "-p", "no:cacheprovider", "--timeout=120"]
    options += ["-p", "timeout", "-p", "hypothesispytest"]
    options += [f"--session-timeout={max(seconds - _ENDING, 1):.0f}"]
    if installed("xdist") and not stage.small:
        options += ["-p", "xdist", "-n", "4"]  # compiling keeps a processor busy, not the GPU
    folders = TESTS[-1:] if stage.small else TESTS
    files = sorted(file for folder in folders for file in (ROOT / folder).glob("test_*.py"))
    lacking = {str(file.relative_to(ROOT)): name for file in files for name in _imports(file) if not installed(name)}
    chosen = [name for file in files if (name := str(file.relative_to(ROOT))) not in lacking]
    answer = stage.run(python("-m", "pytest", *options, *chosen), seconds=seconds, KERAS_BACKEND=backend, **ENVIRONMENT)
    stage.add(f"{backend}/tests", **_counts(answer, report), **({"left_out": lacking} if lacking else {}))
    report.unlink(missing_ok=True)


def _imports(file: Path) -> set[str]:
    """The packages that a test file imports at its top."""
    names = {
        name.name if isinstance(node, ast.Import) else str(node.module)
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in node.names
    }
    return {name.partition(".")[0] for name in names}


def _counts(answer: Answer, report: Path) -> dict[str, Any]:
    if answer.code is None or not report.exists():
        # No report is written then, but a letter for each test that has ended.
        letters = "".join(re.findall(r"^([.sxFE]+)(?:\s+\[ *\d+%\])?$", answer.output, re.MULTILINE))
        good = answer.code is None and "." in letters and not set(letters) & {"F", "E"}
        why = f"{answer.why()}, after {len(letters)} tests, {letters.count('F') + letters.count('E')} of them failed"
        return {"status": "passed" if good else "failed", "why": why, "seconds": answer.seconds}
    suite = xml.etree.ElementTree.parse(report).getroot().find("testsuite")
    assert suite is not None
    failures = {
        f"{case.get('classname')}.{case.get('name')}": (problem.get("message") or "").splitlines()[:1]
        for case in suite.iter("testcase")
        for problem in (*case.findall("failure"), *case.findall("error"))
    }
    cut = not failures and "session-timeout" in answer.output
    return {
        "status": "passed" if answer.code == 0 or cut else "failed",
        **({"why": "the time limit came before the last test"} if cut else {}),
        "tests": int(suite.get("tests", 0)),
        "failed": len(failures),
        "skipped": int(suite.get("skipped", 0)),
        "seconds": answer.seconds,
        **({"failures": failures} if failures else {}),
    }


def _continued(stage: Stage, backend: str) -> None:
    """Stop a run by SIGTERM, continue it by the same command, and compare it with one that was not stopped."""
    stamp = int(time.time())
    # So many epochs that the signal comes before the last one: on a GPU they are short.
    settings = [f"trainer.epochs={2 if stage.small else 60}", "trainer.deterministic=true"]
    whole = digits(stage, backend, f"gpu_whole_{backend}_{stamp}", *settings)
    halved = digits(stage, backend, f"gpu_halved_{backend}_{stamp}", *settings)
    answer = stage.run(whole)
    if answer.code != 0:
        stage.add(f"{backend}/continued", status="failed", why=answer.why())
        return
    curve = folder_of(f"gpu_halved_{backend}_{stamp}") / "metrics.csv"
    with open_process(halved, {}) as process:
        while process.poll() is None and stage.left > 5 and not (curve.exists() and len(_losses(curve)) > 0):
            time.sleep(0.05)
        end_group(process, signal.SIGTERM)
        process.communicate()
        stopped = process.returncode
    answer = stage.run(halved)
    same = answer.code == 0 and _losses(curve) == _losses(folder_of(f"gpu_whole_{backend}_{stamp}") / "metrics.csv")
    stage.add(
        f"{backend}/continued",
        status="passed" if same and stopped == 143 else "failed",
        stopped_with=stopped,
        same_bits=same,
        seconds=answer.seconds,
        **({} if answer.code == 0 else {"why": answer.why()}),
    )


def _losses(file: Path) -> list[str]:
    """The training losses of a run's curve, as they are written."""
    import csv

    with file.open() as stream:
        return [row["train/loss"] for row in csv.DictReader(stream)]
