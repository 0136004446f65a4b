"""The running init of a container: its start, its end, and all that reaches it between."""
