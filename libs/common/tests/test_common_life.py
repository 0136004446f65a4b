"""The life of a service as systemd leads it, played by this test: notices, watchdog, reload, a socket handed over."""

import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from common.sys import descriptors
from tests.support.descriptors import at_most
from tests.support.pace import patience

WAIT_S = patience(20)
SERVICE = """
import sys
from common.life import run
from common.settings import CommonSettings, load

settings = load(CommonSettings, "daemon", sys.argv[1:])

async def serve(life):
    await life.serve(lambda server: None, f"{settings.run_dir}/daemon.sock")

run("daemon", settings, serve)
"""
HANDED = 'exec 3<&"$HANDED" && LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"'


class Manager:
    """What systemd is to one service."""

    def __init__(self, place: Path) -> None:
        self.settings = place / "daemon.toml"
        self.settings.write_text(f'run_dir = "{place}"\n')
        self.log = place / "log"
        self.path = str(place / "daemon.sock")
        self._environment = os.environ | {
            "NOTIFY_SOCKET": str(place / "notify"),
            "WATCHDOG_USEC": str(200_000),
        }
        self._notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notices.bind(self._environment["NOTIFY_SOCKET"])
        self._notices.settimeout(WAIT_S)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *, handing: bool) -> None:
        command = [sys.executable, "-c", SERVICE, "--config", str(self.settings)]
        if handing:
            command = ["bash", "-c", HANDED, "bash", *command]
        number = self.listener.fileno()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, env=self._environment | {"HANDED": str(number)}, pass_fds=(number,), stderr=log
            )

    def signal(self, number: signal.Signals) -> None:
        assert self.process
        self.process.send_signal(number)

    def notice(self, wanted: str) -> str:
        """The next notice of this kind; the watchdog's are passed over."""
        while True:
            text = self._notices.recv(4096).decode()
            if text.startswith(wanted):
                return text
            assert text == "WATCHDOG=1", f"{text} came before {wanted}"

    def logged(self, event: str) -> dict[str, Any]:
        records = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        found: dict[str, Any] = [record for record in records if record["event"] == event][-1]
        return found

    def end(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait(WAIT_S)
        self.listener.close()
        self._notices.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(tmp_path)
    yield manager
    manager.end()


def healthy(path: str) -> bool:
    with grpc.insecure_channel(f"unix:{path}", options=[("grpc.default_authority", "localhost")]) as channel:
        request = health_pb2.HealthCheckRequest()
        answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=WAIT_S, wait_for_ready=True)
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def test_a_service_tells_of_its_start_its_life_and_its_end(manager: Manager) -> None:
    manager.start(handing=False)
    manager.notice("READY=1")
    assert healthy(manager.path)
    manager.notice("WATCHDOG=1")
    manager.signal(signal.SIGTERM)
    manager.notice("STOPPING=1")
    assert manager.process
    assert manager.process.wait(WAIT_S) == 0


def test_a_service_has_more_descriptors_than_a_shell_gives(manager: Manager) -> None:
    with at_most(256):
        manager.start(handing=False)
    manager.notice("READY=1")
    assert manager.process
    found = resource.prlimit(manager.process.pid, resource.RLIMIT_NOFILE)
    assert found[0] in (found[1], descriptors.WANTED)


def test_a_connection_waits_for_the_service_to_which_its_socket_is_handed(manager: Manager) -> None:
    for _ in range(2):
        with socket.socket(socket.AF_UNIX) as early:
            early.connect(manager.path)
            manager.start(handing=True)
            manager.notice("READY=1")
            assert healthy(manager.path)
            assert select.select([early], [], [], WAIT_S)[0]
            assert early.recv(9)[3] == 4  # HTTP/2 servers speak first: SETTINGS
        manager.signal(signal.SIGTERM)
        manager.notice("STOPPING=1")
        assert manager.process
        assert manager.process.wait(WAIT_S) == 0
    assert "traceback" not in manager.log.read_text()


def test_a_reload_takes_the_log_level_and_names_what_needs_a_restart(manager: Manager) -> None:
    manager.start(handing=False)
    manager.notice("READY=1")
    text = manager.settings.read_text()
    manager.settings.write_text(f'{text}log_level = "warning"\notlp_endpoint = "http://127.0.0.1:1"\n')
    manager.signal(signal.SIGHUP)
    assert "\nMONOTONIC_USEC=" in manager.notice("RELOADING=1")
    manager.notice("READY=1")
    manager.settings.write_text(f"{text}log_levl = 1\n")
    manager.signal(signal.SIGHUP)
    manager.notice("RELOADING=1")
    manager.notice("READY=1")
    assert manager.logged("settings.refused")
    assert f"{manager.settings}: unknown setting 'log_levl'" in manager.log.read_text()
    assert healthy(manager.path)
    manager.settings.write_text(text)
    manager.signal(signal.SIGHUP)
    manager.notice("RELOADING=1")
    manager.notice("READY=1")
    assert manager.logged("settings.read")["need_restart"] == []


def test_a_service_that_the_watchdog_ends_shows_where_it_stood(manager: Manager) -> None:
    manager.start(handing=False)
    manager.notice("READY=1")
    manager.notice("WATCHDOG=1")
    manager.signal(signal.SIGABRT)
    assert manager.process
    assert manager.process.wait(WAIT_S) == -signal.SIGABRT
    assert "most recent call first" in manager.log.read_text()
