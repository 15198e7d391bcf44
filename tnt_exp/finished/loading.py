"""The model of a finished run, in the process at hand."""

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from tnt_exp.config.trainer import TrainerConfig
from tnt_exp.finished.finding import find
from tnt_exp.finished.run import FinishedRun

if TYPE_CHECKING:
    from tnt_exp.model import Classifier


def load(run: str | os.PathLike[str], uri: str | None = None) -> "Classifier":
    """The Keras model of a finished run: `tnt_exp.load("multirun/runs/...").predict(images)`.

    Keras runs on the backend that the process has chosen (`KERAS_BACKEND`, or an earlier `import keras`), else on
    the one that trained the model.

    Args:
        run: A run folder, an MLflow run id, `runs:/ID`, `models:/NAME@ALIAS` or `best:SWEEP_FOLDER`.
        uri: Tracking store to ask where it is asked; None: sqlite in the working folder.

    Returns:
        The model. `predict` takes images (N, height, width, channels), uint8 or floats in 0..255, and gives logits
        (N, classes), float32. `class_names` are in the order of the logits.

    Raises:
        InputError: There is no such run, or its model cannot be read.
    """
    finished = find(run, uri)
    os.environ.setdefault("KERAS_BACKEND", finished.config.trainer.backend.value)  # no effect once Keras is imported
    from tnt_exp import model

    return model.load(finished.model_file)


def prepared(finished: FinishedRun, trainer: TrainerConfig) -> "Classifier":
    """The model as training evaluated it: the same backend and the same compilation, so the same bits.

    Args:
        finished: The run.
        trainer: Its section `trainer`, perhaps with another backend.

    Raises:
        InputError: Keras already runs on another backend.
    """
    from tnt_exp.training.device import prepare

    device = prepare(replace(trainer, devices=1))  # as in training, one device evaluates
    from tnt_exp import model

    classifier = model.load(finished.model_file)
    classifier.jit_compile = device.xla
    return classifier
