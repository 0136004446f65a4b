"""Measurements against floors and named peers; run by ./dev bench."""
