"""Export of a finished run's model to other runtimes, each verified by its runtime in a fresh process."""
