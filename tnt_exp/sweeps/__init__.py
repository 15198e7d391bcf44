"""Sweeps: many runs from one command. README.md beside this file explains the parts."""
