"""The typed configuration. Imports nothing slow."""

from tnt_exp.config.schema import GROUPS, Config

__all__ = ["GROUPS", "Config"]
