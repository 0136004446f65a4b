"""Containers: made, removed, shown, and their limits."""
