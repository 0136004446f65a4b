"""What a sandbox stands on: pinned namespaces, its files, its pause process."""
