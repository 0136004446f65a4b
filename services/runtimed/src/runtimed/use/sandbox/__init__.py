"""Sandboxes: made, stopped, removed; some go by themselves."""
