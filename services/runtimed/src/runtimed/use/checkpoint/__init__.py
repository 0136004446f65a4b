"""Checkpoints of containers and pods, and pods made of them."""
