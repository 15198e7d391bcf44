"""The screenshots in docs/pictures: `python docs/screenshots.py [FOLDER]`, with Chromium and selenium.

FOLDER is a working folder in which `SWEEP` was run; without it a new one is made, and the sweep runs there. Each page
is taken in light and dark, 1,400 pixels wide.
"""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
from PIL import Image

PICTURES = Path(__file__).parent / "pictures"
SWEEP = ["model.depth=2,3,4", "trainer.epochs=8"]


@contextmanager
def browser(*, dark: bool = False, height: int = 900) -> Iterator[Any]:
    """Chromium without a window, 1,400 pixels wide."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    size = f"--window-size=1400,{height}"
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", size):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))
    metrics = {"width": 1400, "height": height, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
    try:
        yield driver
    finally:
        driver.quit()


@contextmanager
def serving(folder: Path) -> Iterator[tuple[str, str]]:
    """`tnt-exp ui` in a folder: the address of its server, and the one that it prints."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tnt_exp", "ui", "--no-open", "--port", str(port)]
    process = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
    )
    assert process.stdout is not None
    printed, address = process.stdout.readline().rpartition(" ")[2].strip(), f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"{address}/health", timeout=2).close()
                break
            except OSError:
                assert time.monotonic() < end
                time.sleep(0.5)
        yield address, printed
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.communicate(timeout=30)


def shown(driver: Any, *texts: str) -> str:
    """The text of the page, once all of these are in it."""
    end = time.monotonic() + 90
    while True:
        page: str = driver.execute_script("return document.body.innerText")
        missing = [text for text in texts if text not in page]
        if not missing:
            return page
        assert time.monotonic() < end, f"not on the page: {missing}\n{page[:2000]}"
        time.sleep(0.5)


def visit(driver: Any, address: str, *texts: str, dark: bool = False) -> str:
    """Open a page of MLflow without its assistant, and return its text once these are in it."""
    if not driver.current_url.startswith(address.partition("/#")[0]):
        driver.get(address)
        driver.execute_script(f"localStorage.setItem('_mlflow_dark_mode_toggle_enabled', '{str(dark).lower()}')")
    driver.get("about:blank")  # MLflow stays on its page if only the part after the # changes
    driver.get(address)
    page = shown(driver, *texts)
    for button in driver.find_elements("css selector", "[data-component-id='mlflow.assistant.chat_panel.close']"):
        driver.execute_script("arguments[0].click()", button)
    return page


def pages(folder: Path, sweep: str) -> dict[str, tuple[str, list[str]]]:
    """The pages of MLflow by name: the path, and texts that are there when the page is complete.

    `sweep` begins the name of the parent run.
    """
    client = mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("tnt").experiment_id
    runs = client.search_runs([experiment])
    parent = next(run for run in runs if run.info.run_name.startswith(sweep))
    trials = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    best = client.get_run(parent.data.tags["best_run_id"])
    ids = urllib.parse.quote(json.dumps([run.info.run_id for run in trials]))
    training, one = "workflowType=machine_learning", f"/#/experiments/{experiment}/runs/{best.info.run_id}"
    models = best.outputs.model_outputs if best.outputs else []
    runs_page = f"/#/experiments/{experiment}/runs"
    found = {
        "mlflow_table": (f"{runs_page}?{training}&viewStateShareKey=tnt-exp", ["best/val/accuracy", "matching runs"]),
        "mlflow_sweep": (f"{runs_page}/{parent.info.run_id}?{training}", ["best/val/accuracy 0.", "Child runs"]),
        "mlflow_run": (f"{one}?{training}", ["was kept: ", best.info.run_name]),
        "mlflow_charts": (f"{one}/model-metrics?{training}", ["best/val", "accuracy"]),
        "mlflow_compare": (
            f"/#/compare-runs?runs={ids}&experiments={urllib.parse.quote(json.dumps([experiment]))}&{training}",
            [f"Comparing {len(trials)} Runs", "Parallel Coordinates Plot", "Contour Plot"],
        ),
    }
    if models:
        model = f"/#/experiments/{experiment}/models/{models[0].model_id}?{training}"
        found["mlflow_model"] = (model, ["Datasets used", "best/val/accuracy"])
    return found


def save(driver: Any, name: str) -> None:
    """Write a screenshot with at most 256 colours: a third of the size."""
    time.sleep(3.0)  # MLflow's charts are drawn some time after their titles
    with Image.open(io.BytesIO(driver.get_screenshot_as_png())) as image:
        image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(PICTURES / f"{name}.png", optimize=True)


def main() -> None:
    """Take all of them."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="screenshots")).resolve()
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "tnt_exp"]
    if not (folder / "mlflow.db").exists():
        subprocess.run([*command, "train", "-m", *SWEEP], cwd=folder, check=True)
    (sweep,) = folder.glob("multirun/sweeps/*")
    subprocess.run([*command, "report", str(sweep)], cwd=folder, check=True)
    with serving(folder) as (address, _):
        for dark in (False, True):
            suffix = "_dark" if dark else ""
            with browser(dark=dark) as driver:
                for name, (path, texts) in pages(folder, "sweep depth").items():
                    visit(driver, address + path, *texts, dark=dark)
                    save(driver, f"{name}{suffix}")
            with browser(dark=dark, height=1800) as driver:
                driver.get((sweep / "report.html").as_uri())
                save(driver, f"sweep_report{suffix}")


if __name__ == "__main__":
    main()
