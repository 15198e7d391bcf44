"""What all tests share."""

import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _no_store_left_over() -> Iterator[None]:
    """MLflow keeps the store that was named last, for the whole process."""
    yield
    if "mlflow" in sys.modules:
        sys.modules["mlflow"].set_tracking_uri(None)
