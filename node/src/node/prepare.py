"""What the processes of a node need before they start: directories, the token and port of NATS, settings."""

import json
import secrets
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from common.errors import FailedPreconditionError, InvalidArgumentError
from common.places import CONTAINERS, SYSTEMD
from common.sys.files import replace_file
from common.sys.mounts import ensure_shared
from common.sys.ports import held_port
from node import running, users
from node.layout import SERVERS, SERVICES, Layout

_SYNC = "1s"
"""How often NATS writes out what it has acknowledged, as Redis does; of itself every two minutes."""
FIXED = ("run_dir", "data_dir", "settings_dir")
"""Of a node of units, which have these paths written in them."""


def directories(layout: Layout) -> None:
    """Make the node's directories."""
    ensure_shared(Path(layout.run_dir))
    for path in (f"{layout.data_dir}/redis", f"{layout.data_dir}/nats", f"{layout.run_dir}/log"):
        Path(path).mkdir(mode=0o700, parents=True, exist_ok=True)


@contextmanager
def held_nats(layout: Layout) -> Iterator[Layout]:
    """The layout with a port that is kept for NATS meanwhile, which is the last one if it can be; its settings written.

    NATS asks for a token: a container on the host's network reaches loopback too. Nothing of it for a NATS of others.
    """
    if "nats" not in layout.servers:
        yield layout
        return
    with _held_port(layout) as port:
        found = replace(layout, nats_port=port)
        _write(found.nats_port_file, str(port).encode())
        _write_nats(found)
        yield found


@contextmanager
def _held_port(layout: Layout) -> Iterator[int]:
    given = layout.nats_port
    with ExitStack() as stack:
        try:
            port = stack.enter_context(held_port(given or _last_port(layout), only=bool(given)))
        except OSError as exc:  # those that follow events would tell the token to who listens there
            message = f"nats_port = {given}: 127.0.0.1 refuses it to this node: {exc.strerror}"
            raise FailedPreconditionError(message) from exc
        yield port


def for_units(layout: Layout) -> None:
    """Write down what systemd's units of this node start with; again while they run, too.

    Raises:
        FailedPreconditionError: a node of another kind runs there.
    """
    Path(layout.data_dir).mkdir(mode=0o700, parents=True, exist_ok=True)
    directories(layout)
    with running.claimed(layout.run_dir, SYSTEMD):
        _for_units(layout)


def _for_units(layout: Layout) -> None:
    users.take_back(layout)
    keep_name(layout)
    _mark_servers(layout)
    port = layout.nats_port or _last_port(layout)
    if (
        "nats" in layout.servers and port and port == _last_port(layout) and _had_nats(layout)
    ):  # it runs, and has its port
        found = replace(layout, nats_port=port)
        _write_nats(found)
        _write_settings(found, SYSTEMD)
        return
    with held_nats(layout) as found:
        _write_settings(found, SYSTEMD)


def for_containers(layout: Layout) -> None:
    """Write down what the containers of this node start with, each as its own user; again while they run, too.

    Raises:
        InvalidArgumentError: no port is given for NATS.
        FailedPreconditionError: a node of another kind runs there.
    """
    if not layout.nats_port:
        message = "nats_port 0: containers want a port that is given"
        raise InvalidArgumentError(message)
    directories(layout)
    with running.claimed(layout.run_dir, CONTAINERS):
        keep_name(layout)
        _write(layout.nats_port_file, str(layout.nats_port).encode())
        users.part(layout)  # before the settings: who has these may start
        _write_nats(layout)
        _write_settings(layout, CONTAINERS)
        users.give_settings(layout)


def _mark_servers(layout: Layout) -> None:
    """Leave a file for the unit of each server that the node runs itself."""
    for name in SERVERS:
        if name in layout.servers:
            replace_file(layout.own_file(name), b"", sync=False)
        else:
            layout.own_file(name).unlink(missing_ok=True)


def _write_nats(layout: Layout) -> None:
    if not layout.nats_token_file.exists():
        replace_file(layout.nats_token_file, secrets.token_hex(24).encode())
    lines = (
        f"listen: 127.0.0.1:{layout.nats_port}",
        f"jetstream {{ store_dir: {json.dumps(f'{layout.data_dir}/nats')}, sync_interval: {json.dumps(_SYNC)} }}",
        f"authorization {{ token: {json.dumps(layout.nats_token_file.read_text())} }}",
    )
    _write(layout.nats_config_file, "".join(f"{line}\n" for line in lines).encode())


def keep_name(layout: Layout) -> None:
    """Remember what the node is called: under another name its records would be made anew, and removed ones come back."""
    _write(layout.name_file, layout.node.encode())


def _write(path: Path, content: bytes) -> None:
    """Write a file unless it is so already: on a full disk a node starts with what is there."""
    if not path.exists() or path.read_bytes() != content:
        replace_file(path, content)


def write_settings(layout: Layout, daemon: str) -> None:
    """Write down what a service begins with."""
    replace_file(layout.settings_file(daemon), _toml(layout.settings(daemon)), sync=False)


def write_options(layout: Layout) -> None:
    """Write down what a supervisor in the background begins with."""
    replace_file(layout.options_file, _toml(asdict(layout)), sync=False)


def _toml(values: Mapping[str, str | int]) -> bytes:
    # a JSON string is one of TOML, and so is a number
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items()).encode()


def _write_settings(layout: Layout, supervisor: int) -> None:
    for daemon in SERVICES:
        write_settings(layout, daemon)
    replace_file(layout.state_file, layout.state(supervisor, {}, {}).encode())


def _had_nats(layout: Layout) -> bool:
    """Whether the node was to run its own when it was last prepared."""
    try:
        return "nats" in json.loads(layout.state_file.read_text())["servers"]
    except (OSError, ValueError, KeyError):
        return False


def _last_port(layout: Layout) -> int:
    known = layout.nats_port_file.read_text() if layout.nats_port_file.exists() else ""
    return int(known) if known.isdecimal() else 0
