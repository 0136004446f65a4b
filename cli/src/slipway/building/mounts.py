"""RUN --mount: caches that stay on the node, secrets and temporary directories that do not; which binds are wanted."""

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio

from common.api.cri.v1 import api_pb2 as cri
from common.errors import InvalidArgumentError
from slipway.building import caches
from slipway.building.dockerfile import Instruction

_POLL_S = 0.1
_KNOWN = {
    "bind": ("from", "source", "target", "readwrite", "readonly"),
    "cache": ("id", "target", "sharing", "mode", "uid", "gid"),
    "secret": ("id", "target", "required", "mode", "uid", "gid"),
    "tmpfs": ("target",),
}
_ALIASES = {
    "dst": "target", "destination": "target", "src": "source", "rw": "readwrite", "ro": "readonly",
}  # fmt: skip


def secrets(texts: list[str]) -> dict[str, bytes]:
    """The contents of `--secret id=ID,src=FILE` or `id=ID,env=NAME`, by id.

    Raises:
        InvalidArgumentError: one is malformed.
        OSError: a file cannot be read.
    """
    found = {}
    for text in texts:
        fields = dict(part.partition("=")[::2] for part in text.split(","))
        name, source = fields.get("id", ""), fields.get("src") or fields.get("source")
        variable = fields.get("env", "")
        if not name or bool(source) == bool(variable):
            message = f"--secret {text!r}: want id=ID,src=FILE or id=ID,env=NAME"
            raise InvalidArgumentError(message)
        value = os.environ.get(variable, "").encode()  # noqa: TID251 - as the option asks
        found[name] = Path(source).read_bytes() if source else value
    return found


@asynccontextmanager
async def mounted(
    step: Instruction, texts: list[str], given: Mapping[str, bytes], data_dir: str, space: str
) -> AsyncIterator[list[cri.Mount]]:
    """The mounts of one RUN for as long as it runs; it waits for a cache that is not shared and that another has.

    Raises:
        InvalidArgumentError: one is malformed, or a secret that it needs is not given.
    """
    with ExitStack() as stack:
        scratch = tempfile.mkdtemp(dir=space)
        stack.callback(shutil.rmtree, scratch, ignore_errors=True)
        made = []
        wanted = [_fields(step, text) for text in texts]
        kept = await _caches(step, wanted, data_dir, stack)
        for number, fields in enumerate(wanted):
            where = f"{scratch}/{number}"
            if fields["type"] == "bind":
                continue
            match fields["type"]:
                case "cache":
                    made.append(cri.Mount(host_path=kept[_cache_id(fields)]))
                case "tmpfs":
                    Path(where).mkdir(mode=0o755)
                    made.append(cri.Mount(host_path=where))
                case _:
                    if not _secret(step, fields, given, where):
                        continue
                    made.append(cri.Mount(host_path=where, readonly=True))
            made[-1].container_path = fields["target"]
        yield made


def _fields(step: Instruction, text: str) -> dict[str, str]:
    fields = {}
    for part in text.split(","):
        name, joint, value = part.partition("=")
        fields[_ALIASES.get(name, name)] = value if joint else "true"
    kind = fields.setdefault("type", "bind")
    if kind == "ssh":
        step.refuse(f"--mount={text}: ssh is not done here: give a key as --secret")
    if kind not in _KNOWN:
        step.refuse(f"--mount={text}: type {kind!r} is none of {', '.join(_KNOWN)}")
    for name in fields:
        if name != "type" and name not in _KNOWN[kind]:
            step.refuse(f"--mount={text}: {name!r} is none of {', '.join(_KNOWN[kind])}")
    if kind == "secret":
        fields.setdefault("id", fields.get("target", "").rpartition("/")[2])
        fields.setdefault("target", f"/run/secrets/{fields['id']}")
    target = fields.get("target", "")
    if not target.startswith("/") or ".." in target.split("/"):
        step.refuse(f"--mount={text}: target {target!r}: want an absolute path")
    return fields


@dataclass(frozen=True, slots=True)
class Bind:
    """A mount of what another stage, an image or the context has."""

    origin: str
    """A stage or an image; empty for the context."""
    source: str
    target: str
    writable: bool
    """What is written there is lost."""


def binds(step: Instruction, texts: list[str]) -> list[Bind]:
    """The bind mounts among the mounts of a RUN.

    Raises:
        InvalidArgumentError: one is malformed.
    """
    found = []
    for fields in (_fields(step, text) for text in texts):
        if fields["type"] == "bind":
            writable = fields.get("readwrite") == "true" or fields.get("readonly") == "false"
            source = fields.get("source", "/")
            found.append(Bind(fields.get("from", ""), source, fields["target"], writable))
    return found


async def _caches(
    step: Instruction, wanted: list[dict[str, str]], data_dir: str, stack: ExitStack
) -> dict[str, str]:
    """Where the caches are by their ids, each held; in one order, so that no two commands wait for each other."""
    found: dict[str, str] = {}
    mounts = [fields for fields in wanted if fields["type"] == "cache"]
    for name in sorted({_cache_id(fields) for fields in mounts}):
        those = [fields for fields in mounts if _cache_id(fields) == name]
        alone = any(fields.get("sharing", "shared") != "shared" for fields in those)
        path, new = await _held(data_dir, name, alone=alone, stack=stack)
        if new:
            path.mkdir(exist_ok=True, mode=0o700)
            path.chmod(_number(step, those[0], "mode", "0755", 8))
            os.chown(path, _number(step, those[0], "uid", "0", 10), _number(step, those[0], "gid", "0", 10))
        found[name] = str(path)
    return found


async def _held(data_dir: str, name: str, *, alone: bool, stack: ExitStack) -> tuple[Path, bool]:
    while True:
        try:
            return caches.held(data_dir, name, alone=alone, stack=stack)
        except BlockingIOError:
            await anyio.sleep(_POLL_S)  # a lock of the kernel tells nobody


def _cache_id(fields: Mapping[str, str]) -> str:
    return fields.get("id", fields["target"])


def _secret(step: Instruction, fields: Mapping[str, str], given: Mapping[str, bytes], where: str) -> bool:
    content = given.get(fields["id"])
    if content is None:
        if fields.get("required") == "true":
            step.refuse(f"secret {fields['id']!r} is not given: --secret id={fields['id']},src=FILE")
        return False
    with open(where, "xb", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
        file.write(content)
    os.chown(where, _number(step, fields, "uid", "0", 10), _number(step, fields, "gid", "0", 10))
    Path(where).chmod(_number(step, fields, "mode", "0400", 8))
    return True


def _number(step: Instruction, fields: Mapping[str, str], name: str, default: str, base: int) -> int:
    text = fields.get(name, default)
    try:
        number = int(text, base)
    except ValueError:
        number = -1
    if not 0 <= number < 2**31:
        step.refuse(f"--mount: {name}={text}: want a number")
    return number
