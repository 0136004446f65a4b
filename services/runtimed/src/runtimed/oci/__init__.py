"""OCI runtime configurations made from CRI requests, and the cgroups that they name."""
