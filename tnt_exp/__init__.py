"""Compose an experiment from YAML groups, train a Keras TNT, find every run in MLflow."""

__version__ = "0.1.0"
