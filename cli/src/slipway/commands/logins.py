"""login, logout."""

import sys
from argparse import Namespace
from urllib.parse import urlsplit

import anyio.to_thread

from common.api.images.v1 import images_pb2 as pb
from common.dockerconfig import Login, drop_login, keep_login, registry_of
from common.errors import InvalidArgumentError
from slipway.connect import imaged
from slipway.options.credentials import docker_config
from slipway.output import render
from slipway.streams import questions

MAX_PASSWORD_BYTES = 64 << 10


async def login(arguments: Namespace) -> int:
    """Check a login with its registry, and keep it where docker does."""
    registry = _registry(arguments.registry)
    username, password = _asked(arguments)
    auth = pb.Auth(username=username, password=password, server_address=registry)
    async with imaged(arguments.run_dir) as client:
        asked = await client.check_login(registry, auth)
    where = await anyio.to_thread.run_sync(keep_login, docker_config(), registry, Login(username, password))
    if not asked:
        sys.stderr.write(f"slipway: {render.clean(registry)} asks for no login: this one is not checked\n")
    sys.stdout.write(f"Login Succeeded: kept in {where}\n")
    return 0


async def logout(arguments: Namespace) -> int:
    """Forget a login."""
    registry = _registry(arguments.registry)
    had = await anyio.to_thread.run_sync(drop_login, docker_config(), registry)
    told = "Removed the login for" if had else "There is no login for"
    sys.stdout.write(f"{told} {render.clean(registry)}\n")
    return 0


def _registry(text: str) -> str:
    """A registry as docker names it: also of a URL."""
    if "@" in text:  # which would mean another registry, and perhaps tell a password
        raise InvalidArgumentError("registry: want HOST or HOST:PORT alone, and the user by -u")
    host = urlsplit(text).netloc if "://" in text else text.partition("/")[0]
    registry, _ = registry_of(f"{host}/any")
    if not host or ("." not in host and ":" not in host and host != "localhost"):
        raise InvalidArgumentError(f"registry {text!r}: want HOST or HOST:PORT")
    return registry


def _asked(arguments: Namespace) -> tuple[str, str]:
    """User and password.

    Raises:
        InvalidArgumentError: one is missing, and there is no terminal to ask at.
    """
    username = arguments.username
    if arguments.password_stdin:
        if not username:
            raise InvalidArgumentError("--password-stdin: whose? name the user with -u")
        with questions.answering():
            password = sys.stdin.read(MAX_PASSWORD_BYTES).rstrip("\r\n")
    elif not sys.stdin.isatty():
        raise InvalidArgumentError("login: no terminal to ask for a password: use --password-stdin")
    else:
        username = username or questions.line("Username: ").strip()
        password = questions.secret("Password: ")
    if not username or not password:
        raise InvalidArgumentError("login: want a user and a password that are not empty")
    return username, password
