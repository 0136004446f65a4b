"""Implementations of imaged.ports; only main imports them."""
