"""Tables, durations and sizes as text, for the terminal and for files."""

import math
from collections.abc import Mapping, Sequence


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Return rows under a header, in aligned columns, those numbered in `right` to the right."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]

    def line(row: Sequence[str]) -> str:
        cells = [
            text.rjust(width) if column in right else text.ljust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    return "\n".join([line(header), *map(line, rows)])


def format_duration(seconds: float) -> str:
    """Return seconds as `1:02:03` or `2:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def format_bytes(number: float) -> str:
    """Return a size as `1.2 GiB`."""
    for unit in ("B", "KiB", "MiB"):
        if number < 1024:
            return f"{number:.4g} {unit}"
        number /= 1024
    return f"{number:.4g} GiB"


def format_wrong(accuracy: float, images: int) -> str:
    """Return how many images are wrong at an accuracy, `8 of 288 wrong`."""
    return f"{round((1 - accuracy) * images):,} of {images:,} wrong"


def shorten(text: str, length: int, end: int) -> str:
    """Return a text without its middle if it is longer than `length`; its last `end` letters stay."""
    return text if len(text) <= length else f"{text[: length - end - 1]}…{text[-end:]}"


def as_number(value: str | float | None) -> float | None:
    """A finite number, or None."""
    try:
        number = math.nan if value is None else float(value)
    except (ValueError, OverflowError):  # no number, or one of 400 digits
        return None
    return number if math.isfinite(number) else None


def canonical_text(value: object) -> str:
    """Return a value of the configuration as text: one text for 8, 8.0 and "8"; `null`, `true`, `[0.5,1]`."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(canonical_text, value))}]"
    number = as_number(value) if isinstance(value, int | float | str) else None
    if number is None:
        return str(value).lower() if str(value) in ("True", "False") else str(value)
    return str(int(number)) if number.is_integer() and abs(number) < 1e15 else repr(number)


def format_params(params: Mapping[str, str]) -> str:
    """Return keys and values as they are typed: `model.embed_dim=48 model.depth=4`."""
    return " ".join(f"{key}={value}" for key, value in params.items())
