import math
import time
from types import SimpleNamespace

import pytest

from tnt_exp.config.trainer import Select
from tnt_exp.training.train_state import BestWeights
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


def test_epoch_whose_loss_is_not_finite_is_never_better() -> None:
    best, kept = BestWeights(Select.best, patience=3), []
    for epoch, (accuracy, loss) in enumerate(
        [(1.0, math.nan), (0.2, 1.0), (1.0, math.nan), (0.9, math.inf), (0.2, 1.0)], start=1
    ):
        stop = best.update(epoch, {"val/accuracy": accuracy, "val/loss": loss}, SimpleNamespace(variables=[]))  # type: ignore[arg-type]
        kept.append(best.epoch)
    assert kept == [1, 2, 2, 2, 2]  # the first for want of another
    assert stop
