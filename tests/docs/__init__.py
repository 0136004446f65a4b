"""The documents, tried: what a page tells its reader to type is typed."""
