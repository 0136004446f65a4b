"""Where a node keeps things, and the command lines of its processes."""

import json
import os
import shutil
import socket
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

from common.errors import FailedPreconditionError
from common.settings import EVENTS_MAX_AGE_S, EVENTS_MAX_BYTES, EVENTS_MAX_REPEATS

SERVICES = ("snapshotd", "shimd", "imaged", "runtimed", "crid", "opsd")
"""In start order; they also wait for each other, so the order only saves time."""

SERVERS = ("redis", "nats")
"""Of others' making; a node runs its own unless it is told of some elsewhere."""

OOM_SCORES = {
    "shimd": -999,
    "redis": -900,
    "runtimed": -900,
    "snapshotd": -500,
    "imaged": -500,
    "nats": -500,
    "crid": -500,
    "opsd": 0,
}
"""What keeps each from the kernel that is out of memory, of 1000 (docs/operating.md); a shim has that of shimd."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One node's directories and addresses: the options of `slipway-node`, and the keys of node.toml."""

    node: str = field(default_factory=socket.gethostname)
    """Name of this node in events and records, which stays when the host's changes; no two nodes that share NATS or Redis may have the same."""
    run_dir: str = "/run/slipway"
    """Sockets, mounts and all else that a reboot may empty."""
    data_dir: str = "/var/lib/slipway"
    """Blobs, layers, records and all else that must outlive a reboot."""
    certs_dir: str = "/etc/slipway/certs.d"
    """Of registries, in containerd's form."""
    cni_dir: str = "/etc/cni/net.d"
    """Networks of pods, as CNI's `*.conflist`."""
    settings_dir: str = "/etc/slipway"
    """Where the operator keeps SERVICE.toml for those services that are to differ; empty for nowhere."""
    otlp_endpoint: str = ""
    """Where opsd sends the traces of all services on to, as http://HOST:PORT; empty for nowhere."""
    nats_url: str = ""
    """Of a NATS that nodes share, as nats://TOKEN@HOST:PORT, several servers after commas; with none the node runs its own."""
    redis_url: str = ""
    """Of a Redis of others, as redis://:PASSWORD@HOST:PORT/0; with none the node runs its own."""
    events_max_bytes: int = EVENTS_MAX_BYTES
    """What the events of all nodes on this NATS may take there until the oldest go; the same on each node."""
    events_max_age_s: int = EVENTS_MAX_AGE_S
    """How old an event becomes there; the same on each node."""
    events_max_repeats: int = EVENTS_MAX_REPEATS
    """How many events of one kind about one object are kept there, and of one container's commands; the same on each node."""
    nats_port: int = 0
    """Of the node's own NATS, on loopback, and no other than this one; 0 takes the last one, or a free one."""
    metrics_port: int = 9471
    """The first of the loopback ports on which the services show their metrics, in their start order; 0 for none."""
    dashboard_port: int = 9440
    """Of loopback, where opsd shows its page; 0 for any free one."""

    @property
    def state_file(self) -> Path:
        """node.json: what the command line and the dashboards read."""
        return Path(self.run_dir, "node.json")

    @property
    def cri_socket(self) -> str:
        return f"{self.run_dir}/crid.sock"

    @property
    def servers(self) -> tuple[str, ...]:
        """Which of Redis and NATS the node runs itself."""
        elsewhere = {"redis": self.redis_url, "nats": self.nats_url}
        return tuple(name for name in SERVERS if not elsewhere[name])

    @property
    def records_url(self) -> str:
        """Where the services have Redis."""
        return self.redis_url or f"unix://{self.run_dir}/redis.sock"

    @property
    def events_url(self) -> str:
        """Where the services have NATS; the node's own listens on loopback and asks for a token that root alone can read."""
        if self.nats_url:
            return self.nats_url
        return f"nats://{self.nats_token_file.read_text()}@127.0.0.1:{self.nats_port}"

    @property
    def nats_token_file(self) -> Path:
        """Made once for a node, mode 0600, so that those who follow its events may keep it."""
        return Path(self.data_dir, "nats-token")

    @property
    def nats_config_file(self) -> Path:
        """The settings of NATS, with the token: its command line all can read."""
        return Path(self.data_dir, "nats.conf")

    @property
    def nats_port_file(self) -> Path:
        """What NATS had last, for those that know it."""
        return Path(self.data_dir, "nats-port")

    @property
    def name_file(self) -> Path:
        """What the node was called last, for a host whose name changes: records are kept under it."""
        return Path(self.data_dir, "node-name")

    def log_file(self, name: str) -> Path:
        return Path(self.run_dir, "log", f"{name}.log")

    def own_file(self, server: str) -> Path:
        """Is there for a server that the node runs itself; the condition of its systemd unit."""
        return Path(self.run_dir, "settings", f"own-{server}")

    @property
    def options_file(self) -> Path:
        """All of this for the supervisor, whose command line all can read: the URLs may have passwords."""
        return Path(self.run_dir, "settings", "node.toml")

    def settings_file(self, daemon: str) -> Path:
        """What the node has its service begin with; the operator's own file is read after it, and wins."""
        return Path(self.run_dir, "settings", f"{daemon}.toml")

    def state(
        self, supervisor: int, pids: dict[str, int], failures: dict[str, int], *, stopping: bool = False
    ) -> str:
        """The text of node.json."""
        facts = asdict(self) | {
            "cri_socket": self.cri_socket,
            "redis_url": self.records_url,
            "nats_url": self.events_url,
            "servers": self.servers,
            "supervisor": supervisor,
            "pids": pids,
            "failures": failures,
            "stopping": stopping,
        }
        return json.dumps(facts, indent=2) + "\n"

    def settings(self, daemon: str) -> dict[str, str | int]:
        """What a service is told of the node."""
        values: dict[str, str | int] = {
            "node": self.node,
            "run_dir": self.run_dir,
            "data_dir": self.data_dir,
            "redis_url": self.records_url,
            "nats_url": self.events_url,
            "events_max_bytes": self.events_max_bytes,
            "events_max_age_s": self.events_max_age_s,
            "events_max_repeats": self.events_max_repeats,
            "otlp_endpoint": f"unix:{self.run_dir}/opsd.sock",
        }
        if self.metrics_port and daemon in SERVICES:
            values["metrics_address"] = f"127.0.0.1:{self.metrics_port + SERVICES.index(daemon)}"
        own: dict[str, dict[str, str]] = {
            "imaged": {"certs_dir": self.certs_dir},
            "runtimed": {"cni_conf_dir": self.cni_dir},
            # the spans of all services come to opsd, which sends them on
            "opsd": {
                "http_address": f"127.0.0.1:{self.dashboard_port}",
                "otlp_endpoint": self.otlp_endpoint,
            },
        }
        return values | own.get(daemon, {})

    def command(self, name: str) -> list[str]:
        """The command line of one process of the node.

        Raises:
            FailedPreconditionError: its program is not installed.
        """
        if name == "redis":
            data = f"{self.data_dir}/redis"
            return [
                program("redis-server"),
                *("--port", "0", "--unixsocket", f"{self.run_dir}/redis.sock", "--unixsocketperm", "600"),
                *("--dir", data, "--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
            ]
        if name == "nats":
            return [program("nats-server"), "--config", str(self.nats_config_file)]
        own = Path(self.settings_dir, f"{name}.toml")
        files = [self.settings_file(name), *([own] if self.settings_dir and own.exists() else [])]
        return [program(name), *(word for file in files for word in ("--config", str(file)))]


def program(name: str) -> str:
    """The path of a program: beside this interpreter first, then on PATH.

    Raises:
        FailedPreconditionError: it is not installed.
    """
    path = os.pathsep.join((str(Path(sys.executable).parent), _path()))
    found = shutil.which(name, path=path)
    if not found:
        message = f"{name} is not installed: run `sudo ./dev install-deps`"
        raise FailedPreconditionError(message)
    return found


def _path() -> str:
    return os.pathsep.join([*os.get_exec_path(), "/usr/sbin", "/sbin"])
