"""The trainer, its compiled step on each backend, optimizer, checkpoints."""
