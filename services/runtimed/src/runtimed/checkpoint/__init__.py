"""Checkpoints: their rules, what the machine must have, how containers are held still, the files."""
