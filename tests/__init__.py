"""Suites that need more than one distribution."""
