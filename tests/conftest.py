"""What all tests share."""

import logging
import os
import sys
from collections.abc import Iterator

import hypothesis
import pytest

from tnt_exp import cli

cli.collect_less_garbage()
# The time of one example says nothing on a machine that does other work, too.
hypothesis.settings.register_profile("tests", deadline=None)
hypothesis.settings.load_profile("tests")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole runs first: a process that gets a file of them last works on alone while the others are done."""
    whole = ("tests/test_", "tests/sweep/", "tests/tracking/", "tests/finished_runs/")
    items.sort(key=lambda item: not item.nodeid.startswith(whole))  # a stable order within


@pytest.fixture(autouse=True)
def _restore_process_state() -> Iterator[None]:
    """Undo what tests in one process would see of each other.

    absl keeps the stream that was standard error when TensorFlow was imported, which is pytest's, and closes it when
    Hydra configures logging, to which level it sets it, too. MLflow keeps the store that was named last. A run sets
    variables that a later process would inherit, XLA_FLAGS among them, which changes the bits of JAX.
    """
    environment, levels = dict(os.environ), {name: logging.getLogger(name).level for name in ("root", "tnt_exp")}
    if "absl.logging" in sys.modules:
        sys.modules["absl.logging"].get_absl_handler().python_handler.stream = sys.__stderr__
    yield
    os.environ.clear()
    os.environ.update(environment)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    if "mlflow" in sys.modules:
        sys.modules["mlflow"].set_tracking_uri(None)
