"""One run of a CNI plugin: environment and configuration in, result or error out."""

import contextlib
import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any, BinaryIO

import anyio

from common.errors import FailedPreconditionError, UnavailableError

MAX_OUTPUT_BYTES = 1 << 20
# What plugins call in turn (iptables, nft, sysctl) is here on every distribution.
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Error codes of the CNI specification that tell of the configuration and not of the moment.
_CONF_CODES = frozenset({1, 2, 4, 6, 7})


def find(kind: str, bin_dirs: list[str]) -> str | None:
    """Path of a plugin's program."""
    for directory in bin_dirs:
        path = Path(directory) / kind
        if os.access(path, os.X_OK):
            return str(path)
    return None


async def run(
    kind: str, bin_dirs: list[str], config: dict[str, Any], env: dict[str, str]
) -> dict[str, Any] | None:
    """Run a plugin to its end; None when it answers nothing. A cancelled run is killed with its children.

    Raises:
        FailedPreconditionError: there is no such plugin, or it refuses its configuration.
        UnavailableError: it failed; the message has its name and what it said.
    """
    program = find(kind, bin_dirs)
    if program is None:
        raise FailedPreconditionError(f"cni plugin {kind!r} is in none of {':'.join(bin_dirs)}")
    with _file(json.dumps(config).encode()) as given, _file() as out, _file() as err:
        process = subprocess.Popen(  # noqa: ASYNC220 - a plugin of the node's; as quick as a fork and an exec
            [program],
            stdin=given,
            stdout=out,
            stderr=err,
            env={"PATH": PATH, **{k: value for k, value in env.items() if value or k.startswith("CNI_")}},
            start_new_session=True,
        )
        await _end(process)
        return _answer(kind, env["CNI_COMMAND"], process.returncode, _content(out), _content(err))


async def _end(process: "subprocess.Popen[bytes]") -> None:
    handle = os.pidfd_open(process.pid)
    try:
        await anyio.wait_readable(handle)
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with anyio.CancelScope(shield=True):
            await anyio.wait_readable(handle)
        raise
    finally:
        os.close(handle)
        process.wait()


def _file(content: bytes = b"") -> BinaryIO:
    """A file in memory: unlike a pipe it needs nobody at its other end while the plugin runs."""
    file = os.fdopen(os.memfd_create("cni", os.MFD_CLOEXEC), "w+b", buffering=0)
    file.write(content)
    file.seek(0)
    return file


def _content(file: BinaryIO) -> bytes:
    file.seek(0)
    return file.read(MAX_OUTPUT_BYTES)


def _answer(kind: str, verb: str, code: int | None, out: bytes, err: bytes) -> dict[str, Any] | None:
    try:
        answer = json.loads(out) if out.strip() else None
    except ValueError:
        answer = None
        if code == 0:
            raise UnavailableError(f"cni plugin {kind!r}: {verb} answered no JSON: {out[:200]!r}") from None
    if code == 0:
        return answer if isinstance(answer, dict) else None
    if isinstance(answer, dict) and "msg" in answer:
        text = f"{answer['msg']}: {answer['details']}" if answer.get("details") else str(answer["msg"])
        refused = answer.get("code") in _CONF_CODES
    else:
        text, refused = (err or out)[-500:].decode(errors="replace").strip() or f"exit code {code}", False
    message = f"cni plugin {kind!r}: {verb} failed: {text}"
    raise FailedPreconditionError(message) if refused else UnavailableError(message)
