"""snapshotd owns layers on disk, the snapshots over them and their mounts."""
