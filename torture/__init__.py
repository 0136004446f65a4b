"""Faults made on purpose, and the account of what was lost; run by ./dev torture."""
