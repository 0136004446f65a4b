"""A whole node, driven from outside over its CRI socket and its command line."""
