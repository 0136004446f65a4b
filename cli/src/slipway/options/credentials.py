"""Whose credentials go with a pull or a push."""

import os
from pathlib import Path

from common.api.images.v1 import images_pb2 as pb
from common.dockerconfig import find_login, registry_of


def auth_of(reference: str, creds: str) -> pb.Auth | None:
    """The credentials of `--creds USER:PASSWORD`, or else those that docker keeps for the reference's registry.

    Raises:
        FailedPreconditionError: docker's config or a credential helper is at fault.
    """
    registry, path = registry_of(reference)
    if creds:
        username, _, password = creds.partition(":")
        return pb.Auth(username=username, password=password, server_address=registry)
    login = find_login(docker_config(), registry, path)
    if login is None:
        return None
    return pb.Auth(
        username=login.username,
        password=login.password,
        identity_token=login.identity_token,
        registry_token=login.registry_token,
        server_address=registry,
    )


def docker_config() -> Path:
    """Where docker keeps logins for the one who calls."""
    directory = os.environ.get("DOCKER_CONFIG")  # noqa: TID251 - docker's own name for it
    return (Path(directory) if directory else Path("~/.docker").expanduser()) / "config.json"
