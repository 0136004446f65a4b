"""A node as containers."""
