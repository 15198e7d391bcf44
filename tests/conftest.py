"""What all tests share."""

import sys
from collections.abc import Iterator

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole runs first: a process that gets a file of them last works on alone while the others are done."""
    whole = ("tests/test_", "tests/sweep/", "tests/tracking/", "tests/finished/")
    items.sort(key=lambda item: not item.nodeid.startswith(whole))  # a stable order within


@pytest.fixture(autouse=True)
def _no_store_left_over() -> Iterator[None]:
    """MLflow keeps the store that was named last, for the whole process."""
    yield
    if "mlflow" in sys.modules:
        sys.modules["mlflow"].set_tracking_uri(None)
