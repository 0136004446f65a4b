"""Words for a shell that completes, and the manual page: what the parser knows, told otherwise."""
