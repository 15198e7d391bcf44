"""Image files from whatever names them, decoded a few ahead of where they are needed."""

import glob
import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from tnt_exp.config import InputError
from tnt_exp.data.decoding import decode
from tnt_exp.data.folders import image_files
from tnt_exp.data.reading import shown

_STDIN = "-"


def named(arguments: Sequence[str], stdin: Iterable[str] = sys.stdin) -> Iterator[Path]:
    """The files that are meant, one by one: nothing is listed before it is needed.

    Args:
        arguments: Files, folders (all images in them and below), globs (`**` too), or `-`: a list on standard input,
            a file a line.
        stdin: Standard input.

    Raises:
        InputError: At once, where an argument names nothing; a file of a list that is not there is found when it is
            read.
    """
    for argument in arguments:
        if argument != _STDIN and not Path(argument).exists() and next(_matches(argument), None) is None:
            raise InputError(f"{shown(argument)}: expected an image, a folder or a glob, found nothing there.")
    return _named(arguments, stdin)


def _named(arguments: Sequence[str], stdin: Iterable[str]) -> Iterator[Path]:
    for argument in arguments:
        if argument == _STDIN:
            yield from (Path(line) for text in stdin if (line := text.rstrip("\r\n")))
        elif Path(argument).is_dir():
            yield from image_files(Path(argument))
        elif Path(argument).exists():
            yield Path(argument)
        else:
            for found in sorted(_matches(argument)):
                yield from image_files(Path(found)) if Path(found).is_dir() else [Path(found)]


def _matches(pattern: str) -> Iterator[str]:
    return glob.iglob(pattern, recursive=True)  # noqa: PTH207 (Path.glob takes no absolute pattern)


def decoded(
    files: Iterator[Path], size: int, channels: int, ahead: int = 64
) -> Iterator[tuple[Path, np.ndarray | InputError]]:
    """Each file with its image, uint8 (size, size, channels), or with what is wrong with it; in order.

    Args:
        files: Their names.
        size: Side of an image, pixels; see `tnt_exp.data.image_folder.decode`.
        channels: 1 (grey) or 3 (RGB).
        ahead: Files that are being decoded or wait for the reader, at most.
    """

    def image(file: Path) -> np.ndarray | InputError:
        try:
            return decode(file, size, channels)
        except InputError as error:
            return error

    waiting: deque[tuple[Path, Future[np.ndarray | InputError]]] = deque()
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        for file in files:
            waiting.append((file, pool.submit(image, file)))
            if len(waiting) == ahead:
                first, future = waiting.popleft()
                yield first, future.result()
        for first, future in waiting:
            yield first, future.result()
    finally:
        pool.shutdown(cancel_futures=True)
