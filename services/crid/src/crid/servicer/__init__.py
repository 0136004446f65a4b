"""The two CRI services."""
