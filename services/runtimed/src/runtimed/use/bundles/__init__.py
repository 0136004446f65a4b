"""What a container stands on: its OCI bundle, image volumes and mounted images."""
