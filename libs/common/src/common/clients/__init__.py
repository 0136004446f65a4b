"""Typed clients of the services; they raise common.errors."""
