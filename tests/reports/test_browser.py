"""A real browser on a real server shows which run is the best: `tnt-exp ui` and the report page of finished sweeps."""

import importlib.util
import re
import sys
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pytest
from finished_sweeps import FakeTrial, write_sweep
from reports.test_agreement import TIES, VERDICT

from tnt_exp.cli import main, ui
from tnt_exp.reports.sweep_page import render_html
from tnt_exp.tracking.client import init_sqlite_store

pytestmark = [pytest.mark.browser, pytest.mark.timeout(420)]

ROOT = Path(__file__).resolve().parents[2]
SWEEP = "multirun/sweeps/2026-11-28_12-00-00_a1b2c3"
WIDTHS = [
    FakeTrial({"model.embed_dim": width, "optimizer.learning_rate": rate}, [80, 90 + int(width) // 4 + len(rate)], 300)
    for width in ("32", "64")
    for rate in ("0.001", "0.0001")
]


def screenshots() -> Any:
    """docs/screenshots.py, which takes the pictures of the documentation."""
    spec = importlib.util.spec_from_file_location("screenshots", ROOT / "docs/screenshots.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def shots() -> Any:
    return screenshots()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("swept")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    init_sqlite_store(uri)
    write_sweep(folder / SWEEP, uri, TIES, model=True)
    write_sweep(folder / "multirun/sweeps/2026-11-28_13-00-00_d4e5f6", uri, WIDTHS)
    return folder


@pytest.fixture(scope="module")
def driver(shots: Any) -> Iterator[Any]:
    with shots.browser() as driver:
        yield driver


@pytest.fixture(scope="module")
def server(shots: Any, folder: Path) -> Iterator[tuple[str, str]]:
    with shots.serving(folder) as addresses:
        yield addresses


def shown_texts(driver: Any, selector: str, wanted: Collection[str]) -> list[tuple[str, float, float]]:
    """Text, x and y of each element once these are there, read at once: the page draws its table anew."""
    end = time.monotonic() + 60
    while True:
        found = driver.execute_script(
            "return [...document.querySelectorAll(arguments[0])].map(element => [element.innerText.trim(), "
            "element.getBoundingClientRect().x, element.getBoundingClientRect().y])",
            selector,
        )
        if set(wanted) <= {text for text, _, _ in found}:
            return [(text, x, y) for text, x, y in found if text]
        assert time.monotonic() < end, found
        time.sleep(0.2)


def test_the_printed_address_is_the_table_with_the_kept_figures(
    shots: Any, server: tuple[str, str], driver: Any
) -> None:
    page = shots.visit(driver, server[1], "Runs", "best/val/accuracy", "matching runs")
    assert "Traces 0" not in page
    wanted = ["Run Name", "Created", "best/val/accuracy", "test/accuracy", "best_epoch", "model.embed_dim"]
    places = {text: x for text, x, _ in shown_texts(driver, "[role=columnheader]", wanted)}
    assert [places[name] for name in wanted] == sorted(places[name] for name in wanted)
    assert places["model.embed_dim"] < 1300
    shots.shown(driver, "0.97222", "depth=3")
    wide = "embed_dim=64 learning_rate=0.0001"
    links = shown_texts(driver, ".ag-pinned-left-cols-container .ag-row a", ["depth=4", wide])
    names = [text for text, _, _ in sorted(links, key=lambda link: link[2])]
    assert {"depth=3", "depth=5", "sweep depth a1b2c3"} == set(names[:3])  # 140 of 144 images
    assert names[3:5] == ["depth=2", "depth=4"]
    assert wide in names


def test_a_sweep_and_a_run_describe_themselves(shots: Any, server: tuple[str, str], driver: Any, folder: Path) -> None:
    pages = shots.pages(folder, "sweep depth")
    path, texts = pages["mlflow_sweep"]
    page = shots.visit(driver, server[0] + path, *texts, *VERDICT[:1])
    assert "depth=5" in page
    assert "No description" not in page
    path, texts = pages["mlflow_run"]
    page = shots.visit(driver, server[0] + path, *texts)
    assert "Epoch 1 of 3 was kept: validation accuracy 0.9722 (4 of 144 wrong)" in page
    assert "Rank 1 (2 are equal) of 4 in sweep" in page


def test_charts_of_single_values_are_bars(shots: Any, server: tuple[str, str], driver: Any, folder: Path) -> None:
    path, texts = shots.pages(folder, "sweep depth")["mlflow_charts"]
    shots.visit(driver, server[0] + path, *texts)
    page = shots.shown(driver, "0.97", "0.95", "Model metrics\n")
    assert re.findall(r"^(.+)\n\(\d+\)$", page, re.MULTILINE)[:4] == ["best/val", "test", "train", "val"]
    assert len(driver.find_elements("css selector", ".barlayer .bars")) == 2
    assert driver.find_elements("css selector", ".scatterlayer .trace") == []  # those are further down


def test_the_page_that_compares_begins_with_the_swept_key_and_an_accuracy(
    shots: Any, server: tuple[str, str], driver: Any, folder: Path
) -> None:
    path, texts = shots.pages(folder, "sweep depth")["mlflow_compare"]
    page = shots.visit(driver, server[0] + path, *texts, "val/accuracy")
    chosen = page.partition("Parameters:")[2].partition("Clear All")[0].split()
    assert chosen == ["model.depth", "Metrics:", "val/accuracy"]
    assert "\nparameters" not in page


def test_a_model_has_the_name_of_its_run_its_figures_and_its_datasets(
    shots: Any, server: tuple[str, str], driver: Any, folder: Path
) -> None:
    path, texts = shots.pages(folder, "sweep depth")["mlflow_model"]
    page = shots.visit(driver, server[0] + path, *texts, "test/accuracy")
    assert page.partition("Overview")[0].rstrip().splitlines()[-3:-1] == ["depth=3", "Not registered"]
    assert "-validation)" in page.partition("Datasets used")[2].partition("Model versions")[0]
    assert "No metrics recorded" not in page


def test_the_report_page(
    shots: Any, driver: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    for sweep in sorted((folder / "multirun/sweeps").iterdir()):
        assert main(["report", str(sweep)]) == 0
    driver.get_log("browser")  # what an earlier page complained of
    driver.get((folder / SWEEP / "report.html").as_uri())
    page = shots.shown(driver, "Leaderboard", "Parallel coordinates", *VERDICT)
    assert "test/accuracy" in page
    rows = driver.find_elements("css selector", "#leaderboard tbody tr")
    assert [row.text.split()[:2] for row in rows] == [["1", "3"], ["1", "5"], ["3", "2"], ["4", "4"]]
    assert len(driver.find_elements("css selector", "#parallel .run")) == 4
    driver.find_element("css selector", "#leaderboard th").click()
    driver.find_element("css selector", "#leaderboard th").click()
    assert driver.find_elements("css selector", "#leaderboard tbody tr")[0].text.split()[0] == "4"
    values = ["10", "null", "9", "", "inf", "1e-3"]  # in an order in which each is beside one of another kind
    cells = "".join(f"<tr><td>{value}</td></tr>" for value in values)
    page = render_html("sort", f"<table><thead><tr><th>ema</th></tr></thead><tbody>{cells}</tbody></table>")
    (folder / "sort.html").write_text(page)
    driver.get((folder / "sort.html").as_uri())
    for expected in (["1e-3", "9", "10", "inf", "null", ""], ["10", "9", "1e-3", "null", "inf", ""]):
        driver.find_element("css selector", "th").click()
        assert [cell.text for cell in driver.find_elements("css selector", "td")] == expected
    driver.get((folder / "multirun/sweeps/2026-11-28_13-00-00_d4e5f6/report.html").as_uri())
    shots.shown(driver, "Effect of each value")
    assert [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_a_browser_is_opened_where_there_is_a_display(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened: list[str] = []
    served: list[list[str]] = []
    monkeypatch.chdir(folder)
    monkeypatch.setattr(ui, "_open_later", lambda url, port: opened.append(url))
    monkeypatch.setattr("os.execve", lambda program, command, environment: served.append([program, *command]))
    for display, flags in (("", []), (":0", ["--no-open"]), (":0", [])):
        monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
        monkeypatch.delenv("DISPLAY", raising=False)
        if display:
            monkeypatch.setenv("DISPLAY", display)
        assert opened == []
        ui.main(["--port", "5999", *flags])
    printed = capsys.readouterr().out.splitlines()
    assert [f"in a moment: {url}" for url in opened] == printed[2:] == printed[:1]
    assert all(sys.executable == command[0] and "ui" in command for command in served)
