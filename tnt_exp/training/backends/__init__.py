"""The compiled training step on each backend of Keras."""
