"""Hydra takes plugins from the namespace `hydra_plugins` only: ours, under their names there."""

from tnt_exp.sweeps import executors, sweeper


class Sweeper(sweeper.Sweeper):
    """`hydra/sweeper`: what is run."""


class LocalLauncher(executors.LocalLauncher):
    """`hydra/launcher=local`: where it is run."""
