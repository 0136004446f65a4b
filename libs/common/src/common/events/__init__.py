"""Lifecycle events: their schema, subjects, outbox relay and bus."""
