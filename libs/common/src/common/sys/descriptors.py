"""How many descriptors a process may have."""

import resource

WANTED = 65536
"""As the units of systemd have it; more would only keep programs busy that close all there may be, one by one."""


def raise_limit() -> None:
    """Have as many as wanted, as far as the hard limit goes; shells and engines give 1024, for select(2)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = WANTED if hard == resource.RLIM_INFINITY else min(hard, WANTED)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
