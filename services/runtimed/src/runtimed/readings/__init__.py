"""What the kernel tells of cgroups and their processes. Reads only, and blocking."""
