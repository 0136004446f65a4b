"""One run of a CNI plugin: environment and configuration in, result or error out."""

import asyncio
import contextlib
import json
import os
import signal
from pathlib import Path
from typing import Any

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
    process = await asyncio.create_subprocess_exec(
        program,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"PATH": PATH, **{key: value for key, value in env.items() if value or key.startswith("CNI_")}},
        start_new_session=True,
    )
    try:
        out, err = await _talk(process, json.dumps(config).encode())
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with anyio.CancelScope(shield=True):
            await process.wait()
        raise
    return _answer(kind, env["CNI_COMMAND"], process.returncode, out, err)


async def _talk(process: asyncio.subprocess.Process, config: bytes) -> tuple[bytes, bytes]:
    if process.stdin is None or process.stdout is None or process.stderr is None:  # pragma: no cover
        raise FailedPreconditionError("cni plugin without pipes")
    found = {"out": b"", "err": b""}
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        process.stdin.write(config)
        await process.stdin.drain()
    process.stdin.close()

    async def read(name: str, stream: asyncio.StreamReader) -> None:
        parts, size = [], 0
        while part := await stream.read(65536):
            size += len(part)
            if size <= MAX_OUTPUT_BYTES:  # the rest is drained, so that the plugin can end
                parts.append(part)
        found[name] = b"".join(parts)

    async with anyio.create_task_group() as group:
        group.start_soon(read, "out", process.stdout)
        group.start_soon(read, "err", process.stderr)
    await process.wait()
    return found["out"], found["err"]


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
