"""Runs in MLflow. The only package that imports mlflow; README.md beside this file explains how a value gets there."""
