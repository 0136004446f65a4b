"""Pinned namespaces, CNI plugins and the files of a sandbox's network."""
