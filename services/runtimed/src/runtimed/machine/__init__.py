"""What may happen to a sandbox and to a container: pure tables, no proto, no I/O."""
