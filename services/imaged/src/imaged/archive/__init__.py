"""Images as tars: OCI layouts and docker's archives, read as hostile bytes and written reproducibly."""
