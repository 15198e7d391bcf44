"""The compiled training step, the loop around it, and what they need."""
