"""Typed configuration. Imports no other room and nothing slow."""

from tnt_exp.config.schema import GROUPS, Config

__all__ = ["GROUPS", "Config"]
