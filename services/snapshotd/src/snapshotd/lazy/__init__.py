"""Layers whose bytes come while they are read: the table of contents of an eStargz blob, served by FUSE."""
