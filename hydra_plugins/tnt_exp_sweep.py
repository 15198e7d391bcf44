"""Hydra takes plugins from the namespace `hydra_plugins` only: ours, under their names there."""

from tnt_exp.sweep import launcher, sweeper


class Sweeper(sweeper.Sweeper):
    """`hydra/sweeper`: what is run."""


class LocalLauncher(launcher.LocalLauncher):
    """`hydra/launcher=local`: where it is run."""
