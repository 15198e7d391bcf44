import time

import pytest

from tnt_exp.training.trainer import InputTimer


def test_waiting_is_the_readers_time_alone() -> None:
    def slow():  # type: ignore[no-untyped-def]
        for item in range(4):
            time.sleep(0.05)
            yield item

    waiting, items = InputTimer(), []
    for item in waiting.wrap(slow()):
        items.append(item)
        time.sleep(0.1)
    assert items == [0, 1, 2, 3]
    assert waiting.seconds == pytest.approx(0.2, abs=0.1)
