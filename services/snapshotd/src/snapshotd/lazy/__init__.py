"""Layers whose bytes come while they are read: the table of contents of an eStargz or zstd:chunked blob, served by FUSE."""
