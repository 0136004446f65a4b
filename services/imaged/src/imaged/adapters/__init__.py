"""Implementations of imaged.ports; only main and reconcile import them."""
