"""A real browser opens the MLflow UI and the page on the nine points of a grid."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest

pytestmark = [pytest.mark.browser, pytest.mark.timeout(420)]

GRID = ["model.embed_dim=48,64,96", "model.inner_dim=16,24,32", "tracking=default", "launcher.slots=2"]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, new_folder: Any, store: Path) -> Any:
    folder = new_folder(tmp_path_factory.mktemp("swept"), store)
    folder.run(*GRID, "trainer.epochs=2")
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1500,1300"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def server(swept: Any) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "tnt_exp", "ui", "--port", str(port)],
        cwd=swept.path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    address = f"http://127.0.0.1:{port}"
    end = time.monotonic() + 120
    while True:
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=2):
                break
        except OSError:
            assert time.monotonic() < end
            time.sleep(0.5)
    yield address
    os.killpg(process.pid, signal.SIGTERM)
    process.wait(timeout=30)


def shown(browser: Any, *texts: str) -> str:
    """The page's text, once all of these are in it."""
    end = time.monotonic() + 90
    while True:
        page: str = browser.execute_script("return document.body.innerText")
        missing = [text for text in texts if text not in page]
        if not missing:
            return page
        assert time.monotonic() < end, f"not on the page: {missing}\n{page[:2000]}"
        time.sleep(0.5)


def test_mlflow_compares_the_nine_runs_and_names_the_best(
    swept: Any, server: str, browser: Any, tmp_path: Path
) -> None:
    client = mlflow.MlflowClient(f"sqlite:///{swept.path / 'mlflow.db'}")
    experiment = client.search_experiments(filter_string="name = 'tnt'")[0].experiment_id
    runs = client.search_runs([experiment], "tags.sweep_job != ''")
    assert len(runs) == 9
    ids = [run.info.run_id for run in runs]
    query = f"runs={urllib.parse.quote(json.dumps(ids))}&experiments={urllib.parse.quote(json.dumps([experiment]))}"
    browser.get(f"{server}/#/compare-runs?{query}")
    shown(browser, "Comparing 9 Runs", "Parallel Coordinates Plot", "model.embed_dim", "model.inner_dim", *ids)
    assert browser.save_screenshot(str(tmp_path / "compare.png"))

    (parent,) = client.search_runs([experiment], "tags.sweep = 'parent'")
    browser.get(f"{server}/#/experiments/{experiment}/runs/{parent.info.run_id}")
    shown(browser, "model.embed_dim=64, model.inner_dim=16")
    browser.get(f"{server}/#/experiments/{experiment}/runs/{parent.info.run_id}/artifacts")
    shown(browser, "plots", "report.html", "effects.csv")
    assert browser.save_screenshot(str(tmp_path / "parent.png"))


def test_the_page_has_nine_runs_and_the_best_first(swept: Any, browser: Any, tmp_path: Path) -> None:
    swept.run(str(swept.sweep), verb="report")
    browser.get_log("browser")  # what an earlier page complained of
    browser.get((swept.sweep / "report.html").as_uri())
    text = shown(browser, "Leaderboard", "Parallel coordinates", "Effect of each value")
    assert "model.embed_dim=64, model.inner_dim=16" in text
    rows = browser.find_elements("css selector", "#leaderboard tbody tr")
    assert len(rows) == 9
    assert rows[0].text.split()[:3] == ["1", "64", "16"]
    assert len(browser.find_elements("css selector", "#parallel .run")) == 9
    browser.find_element("css selector", "#leaderboard th").click()
    browser.find_element("css selector", "#leaderboard th").click()
    assert browser.find_elements("css selector", "#leaderboard tbody tr")[0].text.split()[0] == "9"
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    assert browser.save_screenshot(str(tmp_path / "report.png"))
