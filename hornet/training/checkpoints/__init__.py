"""Checkpoints: what they are, saving them, reading weights out of them."""
