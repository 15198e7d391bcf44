import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tnt_exp.config.dataset import DatasetConfig, Source
from tnt_exp.data import load_dataset
from tnt_exp.data.sources import safe_pickle
from tnt_exp.errors import UserError


def cifar(path: Path) -> DatasetConfig:
    return DatasetConfig(name=Source.cifar100, path=str(path), validation_fraction=0)


def test_a_pickle_of_python_2(official: Any, tmp_path: Path) -> None:
    # Opcode by opcode as Python 2 wrote the official files: texts and array contents are byte strings.
    data = official.pixels(5, 1).transpose(0, 3, 1, 2).tobytes()
    batch = b"".join(
        [
            b"\x80\x02}(U\x04data",
            b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R",
            b"(K\x01K\x05M\x00\x0c\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R",
            b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T",
            len(data).to_bytes(4, "little"),
            data,
            b"tb",
            b"U\x0bfine_labels](K\x00K\x01K\x02K\x03K\x04e",
            b"u.",
        ]
    )
    dataset = load_dataset(cifar(official.write(tmp_path, {"train": batch, "test": batch})))
    np.testing.assert_array_equal(dataset.train.images, official.pixels(5, 1))
    assert dataset.class_names[:2] == ("apple", "aquarium_fish")


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ([], "expected a dictionary, received list"),
        ({}, "no data and no fine_labels in it"),
        ({b"data": np.zeros((2, 3072), np.uint8)}, "no fine_labels in it"),
        ({b"data": b"no array", b"fine_labels": [0, 1]}, "data is no array"),
        ({b"data": np.zeros((2, 3000), np.uint8), b"fine_labels": [0, 1]}, r"data of shape \(2, 3000\)"),
        ({b"data": np.zeros((2, 3072), np.int64), b"fine_labels": [0, 1]}, "another type than uint8"),
        ({b"data": np.zeros((2, 3072), object), b"fine_labels": [0, 1]}, "another type than uint8"),
        ({b"data": np.zeros((2, 3072), np.uint8), b"fine_labels": [0]}, "received 2 images and 1 labels"),
        ({b"data": np.zeros((2, 3072), np.uint8), b"fine_labels": [0, "1"]}, "no list of whole numbers"),
        ({b"data": np.zeros((2, 3072), np.uint8), b"fine_labels": [0, 10**30]}, "OverflowError"),
        ({b"data": np.zeros((2, 3072), np.uint8), b"fine_labels": [0, -1]}, "received -1 at image 1"),
    ],
)
def test_a_pickle_of_another_form(official: Any, tmp_path: Path, batch: Any, message: str) -> None:
    files = official.python_cifar100() | {"train": pickle.dumps(batch)}
    with pytest.raises(UserError, match=message) as raised:
        load_dataset(cifar(official.write(tmp_path, files)))
    assert "train" in str(raised.value)


class Malice:
    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


@pytest.mark.parametrize("function", [os.system, eval, exec, open, getattr, print, np.load, np.frombuffer, Path])
@pytest.mark.parametrize("protocol", range(6))
def test_a_malicious_pickle_is_refused_and_runs_nothing(
    official: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str], function: Callable[..., Any], protocol: int
) -> None:
    mark = tmp_path / "mark"
    argument = f"touch {mark}" if function is os.system else f"__import__('pathlib').Path({str(mark)!r}).touch()"
    arguments = (str(mark), "w") if function is open else (argument,)
    batch = {b"data": Malice(function, *arguments), b"fine_labels": [0]}
    files = official.python_cifar100() | {"train": pickle.dumps(batch, protocol)}
    with pytest.raises(UserError, match=re.escape("refused: the pickle asks for")):
        load_dataset(cifar(official.write(tmp_path / "data", files)))
    assert not mark.exists()
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    "program",
    [
        b"cnumpy\nndarray\n}S'array'\nNsb.",  # attributes of a replacement
        b"c_codecs\nencode\n(N}S'__new__'\ncnumpy\ndtype\nstb.",  # slots of a replacement
        b"c_codecs\nencode\n(S'x'\nS'rot13'\ntR.",  # another codec
        b"cnumpy.core.multiarray\n_reconstruct.__init__.__globals__\n.",  # a way through a dotted name
        b"Pname\n.",  # a persistent id
        b"\x82\x01.",  # an extension
        b"\x80\x02}r\xff\xff\xff\x7f.",  # a memo of 34 GB
        b"}p2147483647\n.",  # the same as text
    ],
)
def test_the_replacements_open_no_other_way(official: Any, tmp_path: Path, program: bytes) -> None:
    before = {name: dict(vars(kind)) for name, kind in vars(safe_pickle).items() if isinstance(kind, type)}
    files = official.python_cifar100() | {"train": program}
    with pytest.raises(UserError, match="train: "):
        load_dataset(cifar(official.write(tmp_path, files)))
    assert {name: dict(vars(kind)) for name, kind in vars(safe_pickle).items() if isinstance(kind, type)} == before


@settings(max_examples=300, deadline=None)
@given(edits=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4))
def test_any_damage_of_a_pickle_is_an_input_error_or_valid(
    official: Any,
    loads_or_is_refused: Callable[[DatasetConfig], None],
    tmp_path_factory: pytest.TempPathFactory,
    edits: list[tuple[int, int]],
) -> None:
    files = official.python_cifar100(1, 1, protocol=4)
    content = bytearray(files["train"])
    start = content.index(official.pixels(1, 1).transpose(0, 3, 1, 2).tobytes())
    program = [*range(start), *range(start + 3072, len(content))]  # what is not pixels
    for where, value in edits:
        content[program[where % len(program)]] = value
    path = official.write(tmp_path_factory.mktemp("damaged"), files | {"train": bytes(content)})
    loads_or_is_refused(cifar(path))
