"""What several commands do with containers and pods."""
