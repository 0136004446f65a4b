"""config: the settings of the services, as each would read them now, by the service itself."""

import json
import os
import shutil
import socket
import struct
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import FailedPreconditionError, InvalidArgumentError, PermissionDeniedError
from slipway.output import render
from slipway.words.node import SERVICES

WITHIN_S = 20.0
EXPLAIN = "--explain-config"
_CREDENTIALS = struct.Struct("iII")


@dataclass(frozen=True)
class _Start:
    """How a service is started."""

    command: list[str]
    environment: dict[str, str]


async def show(arguments: Namespace) -> int:
    """Print each setting with its value and where that comes from."""
    found = {}
    _known(arguments.service)
    for service in arguments.service or SERVICES:
        found[service] = _explain(service, _start(arguments.run_dir, service))
    if arguments.changed:
        found = {name: [s for s in known if s["source"] != "default"] for name, known in found.items()}
    if arguments.report == "json":
        render.document(found)
        return 0
    rows = [
        (service, known["setting"], known["source"], _value(known["setting"], known["value"]))
        for service, settings in found.items()
        for known in settings
    ]
    render.table(("SERVICE", "SETTING", "SOURCE", "VALUE"), rows)  # some values are long
    return 0


async def validate(arguments: Namespace) -> int:
    """Say whether services would take their settings, or a file; the first that is wrong is an error."""
    if arguments.file and not arguments.service:
        message = "config validate: a file is for one service: `slipway config validate runtimed FILE`"
        raise InvalidArgumentError(message)
    chosen = [arguments.service] if arguments.service else SERVICES
    _known(chosen)
    for service in chosen:
        start = _start(arguments.run_dir, service)
        if arguments.file:
            start = _Start([*start.command, "--config", arguments.file], start.environment)
        count = len(_explain(service, start))
        sys.stdout.write(f"{service}: {count} settings, all valid\n")
    return 0


def _known(services: Iterable[str]) -> None:
    for service in services:
        if service not in SERVICES:
            message = f"service {service!r}: want one of {', '.join(SERVICES)}"
            raise InvalidArgumentError(message)


def _value(setting: str, value: Any) -> str:
    if setting == "socket_mode":
        return f"{value:#o}"  # as a file has it
    return value if isinstance(value, str) else json.dumps(value)


def _explain(service: str, start: _Start) -> list[dict[str, Any]]:
    done = subprocess.run(
        [*start.command, EXPLAIN],
        env=start.environment,
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )
    if done.returncode:
        raise InvalidArgumentError(done.stderr.strip() or f"{service}: ended with {done.returncode}")
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def _start(run_dir: str, service: str) -> _Start:
    """As the one that runs was started; else the installed program, without a file."""
    pid = _pid(f"{run_dir}/{service}.sock")
    with suppress(FileNotFoundError, ProcessLookupError):
        words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:-1]
        end = next((i for i, word in enumerate(words) if Path(word).name == service), -1)
        if pid and end >= 0:
            return _Start(words, _environment(pid))
    path = os.pathsep.join((str(Path(sys.executable).parent), *os.get_exec_path()))
    program = shutil.which(service, path=path)
    if program is None:
        message = f"{service} does not run in {run_dir} and is not installed: `slipway-node up` starts a node"
        raise FailedPreconditionError(message)
    return _Start([program], dict(os.environ))  # noqa: TID251 - what it would be started with from here


def _pid(path: str) -> int:
    """The process that listens on a socket; 0 when none does, or its pid means nothing here."""
    with socket.socket(socket.AF_UNIX) as one:
        try:
            one.connect(path)
        except OSError:
            return 0
        size = _CREDENTIALS.size
        pid: int = _CREDENTIALS.unpack(one.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))[0]
    return pid


def _environment(pid: int) -> dict[str, str]:
    try:
        text = Path(f"/proc/{pid}/environ").read_text(errors="surrogateescape")
    except PermissionError as exc:
        message = f"process {pid}: its environment is not for this user: run it with sudo"
        raise PermissionDeniedError(message) from exc
    return dict(pair.split("=", 1) for pair in text.split("\0") if "=" in pair)
