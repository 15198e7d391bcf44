"""The export formats. Imports nothing slow."""

import importlib.util
from dataclasses import dataclass

from tnt_exp.config.keys import did_you_mean
from tnt_exp.errors import UserError

GRAPHS = "TNT_EXP_GRAPHS"  # environment variable: a folder in which trials that run the same code share graphs


@dataclass(frozen=True)
class Format:
    """One format."""

    name: str  # as in `format=NAME`
    file: str  # in its folder; empty: the folder itself
    packages: tuple[str, ...] = ()  # what must be installed to write and to verify it
    install: str = ""  # the arguments of `pip install`


_ONNX = "'tnt-exp[onnx]'"

FORMATS = {
    format_.name: format_
    for format_ in (
        Format("keras", "model.keras"),
        Format("safetensors", "model.safetensors"),
        Format("savedmodel", ""),
        Format("litert", "model.tflite"),
        Format("onnx", "model.onnx", ("onnx", "onnxruntime"), _ONNX),
        Format("timm", "model.safetensors", ("torch", "timm"), "torch timm"),
    )
}

INT8 = Format("onnx_int8", "model.onnx", ("onnx", "onnxruntime"), _ONNX)  # of `format=onnx quantize=int8`


def chosen(text: str, quantize: str | None = None) -> list[Format]:
    """Return the formats of `format=TEXT`: names separated by commas, or `all`; `quantize` is that of `quantize=TEXT`.

    Raises:
        UserError: One is unknown, or cannot be quantized.
    """
    if quantize is not None:
        if (text, quantize) != ("onnx", "int8"):
            raise UserError(
                f"quantize={quantize}: expected quantize=int8 with format=onnx, received quantize={quantize} with "
                f"format={text}. Export other formats by a command of their own."
            )
        return [INT8]
    if text == "all":
        return list(FORMATS.values())
    for name in text.split(","):
        if name not in FORMATS:
            raise UserError(
                f"format={text}: expected all or some of {', '.join(FORMATS)}, received {name or 'none'}."
                f"{did_you_mean(name, list(FORMATS))}"
            )
    return [FORMATS[name] for name in dict.fromkeys(text.split(","))]


def missing(format_: Format) -> str | None:
    """Return one line that says what to install before the format can be written, or None."""
    lacking = [name for name in format_.packages if importlib.util.find_spec(name) is None]
    if not lacking:
        return None
    return (
        f"format={format_.name}: expected the packages {', '.join(format_.packages)}, received none of "
        f"{', '.join(lacking)}. Install with: pip install {format_.install}"
    )
