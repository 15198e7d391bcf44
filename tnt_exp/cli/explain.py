"""`tnt-exp explain`: draw the attention of a finished run's model on an image."""

from collections.abc import Sequence
from pathlib import Path

from tnt_exp.cli import ArgumentParser
from tnt_exp.errors import UserError
from tnt_exp.finished_runs.find import RUN_HELP, find_run, load_for_evaluation
from tnt_exp.training import device


def main(arguments: Sequence[str]) -> int:
    """Draw the attention on one image and return the exit code."""
    parser = ArgumentParser(
        prog="tnt-exp explain", description="Attention between the patches of an image and within a patch, one picture."
    )
    parser.add_argument("run", help=RUN_HELP)
    parser.add_argument("image", type=Path, help="an image file")
    parser.add_argument("--output", type=Path, help="the picture (default: explained/IMAGE.png in the run folder)")
    parser.add_argument("--uri", help="tracking store to ask for a run (default: mlflow.db in this folder)")
    options = parser.parse_args(list(arguments))
    finished = find_run(options.run, options.uri)
    device.check_backend(finished.config.trainer)
    if finished.config.model.inner_blocks == []:
        raise UserError(f"{finished.path}: expected a model with an inner transformer, received one without.")
    from tnt_exp.data.image_files import decode_image

    size, _, channels = finished.image_shape
    image = decode_image(options.image, size, channels)

    from tnt_exp.reports.attention import attention_maps, read_attention

    classifier = load_for_evaluation(finished, finished.config.trainer)
    name, probability, pixels, maps = read_attention(classifier, image)
    file = options.output or finished.output / "explained" / f"{options.image.stem}.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    attention_maps(pixels, maps, f"{options.image.name}: {probability:.1%} {name}", file)
    print(f"{probability:.4f}  {name}  {options.image}\nwritten to {file}")
    return 0
