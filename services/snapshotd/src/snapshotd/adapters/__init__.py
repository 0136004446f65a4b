"""What stands behind the ports: the kernel's mounts, the unpack helper, the trash."""
