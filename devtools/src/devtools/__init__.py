"""What ./dev runs: the demo, the generators, a registry and a trace receiver to work with."""
