"""An engine for testcontainers: the one that answers here already, or one of our own."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import docker
import pytest
from docker.errors import DockerException
from testcontainers.core.config import testcontainers_config

from devtools import engine

COMPOSE = Path(__file__).parents[2] / ".venv/libexec/docker-compose"
"""Where `./dev install-deps` puts Docker Compose."""


@contextmanager
def engine_for_containers(directory: Path, *, wait: bool) -> Iterator[str | None]:
    """The address of an engine, for this process's environment too; None where there is none.

    One of our own may be in use by another run of the tests: wait for it, or do without.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(testcontainers_config, "ryuk_disabled", True)  # its image would come from a registry
        (directory / "cli-plugins").mkdir()
        (directory / "cli-plugins/docker-compose").symlink_to(COMPOSE)
        patch.setenv("DOCKER_CONFIG", str(directory))
        patch.setenv("DOCKER_BUILDKIT", "0")  # Debian has no buildx
        if engine.installed():
            with engine.engine(wait=wait) as address:
                patch.setenv("DOCKER_HOST", address or "")
                yield address
        else:
            yield _answers()


def _answers() -> str | None:
    try:
        client = docker.from_env(timeout=5)
        client.ping()
        client.close()
    except DockerException:
        return None
    return os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock") if shutil.which("docker") else None
