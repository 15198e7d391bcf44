"""A few of the command lines of `make command-lines`."""

import random

import pytest
from command_lines import answer, generate


@pytest.mark.parametrize("seed", range(12))
def test_any_command_line_is_answered(seed: int) -> None:
    found = answer(generate(random.Random(seed)))
    assert found.problem is None, found.words
