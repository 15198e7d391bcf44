"""What a point will take, counted before it runs."""

from dataclasses import dataclass

from tnt_exp import data
from tnt_exp.config import Config
from tnt_exp.model import counts


@dataclass(frozen=True)
class Costs:
    """What a point will take.

    Attributes:
        parameters: Numbers that are learnt.
        macs: Multiply-accumulate operations of a forward pass of one image.
        bytes: Of a training step, by an estimate: activations of a batch, four copies of the parameters.
    """

    parameters: int
    macs: int
    bytes: int


def costs(config: Config) -> Costs | None:
    """What a point will take; None where classes and channels are known only after reading the data."""
    facts = data.facts(config.dataset)
    if facts.classes is None or facts.channels is None:
        return None
    parameters = counts.parameters(config.model, facts.classes, facts.channels)
    trainer = config.trainer
    width = 4 if trainer.precision.value == "float32" else 2
    activations = counts.activation_bytes(config.model, facts.classes, facts.channels, width=width, remat=trainer.remat)
    # Parameters, gradients and two moments of the optimizer, in float32.
    return Costs(
        parameters,
        counts.macs(config.model, facts.classes, facts.channels),
        activations * trainer.batch_size + 16 * parameters,
    )
