"""System calls; standard library only."""
