"""What a container sees of the node: paths, images and devices, and file systems in memory, from the options of `run`."""

import csv
import os
from argparse import Namespace
from pathlib import Path

from common.api.cri.v1 import api_pb2 as cri
from common.api.runtime.v1 import runtime_pb2 as pb
from common.errors import InvalidArgumentError
from slipway.options.limits import size_bytes

_PROPAGATION = {
    "rprivate": cri.PROPAGATION_PRIVATE,
    "rslave": cri.PROPAGATION_HOST_TO_CONTAINER,
    "rshared": cri.PROPAGATION_BIDIRECTIONAL,
}
_TYPES = ("bind", "tmpfs", "image")
_SAFE = ("nosuid", "nodev", "noexec")
"""What a file system in memory has unless the option says otherwise, as docker's."""


def mounts(options: Namespace) -> list[cri.Mount]:
    """The paths of --volume, and the paths and images of --mount.

    Raises:
        InvalidArgumentError: naming the option and its value.
    """
    found = [_volume(absolute(text, Path.cwd())) for text in options.volume]
    return found + [_mount(text, table) for text, table in _tables(options) if table["type"] != "tmpfs"]


def in_memory(options: Namespace) -> list[pb.Tmpfs]:
    """The file systems of --tmpfs, and those of --mount; raises as `mounts` does."""
    found = [_tmpfs(text) for text in options.tmpfs]
    return found + [_memory(text, table) for text, table in _tables(options) if table["type"] == "tmpfs"]


def devices(options: Namespace) -> list[cri.Device]:
    """The devices of --device; raises as `mounts` does."""
    return [_device(text) for text in options.device]


def absolute(text: str, folder: Path) -> str:
    """A path, or a volume that begins with one: as docker, one that begins with a dot is seen from the folder."""
    path, joint, rest = text.partition(":")
    return f"{os.path.normpath(folder / path)}{joint}{rest}" if path.startswith(".") else text


def _volume(text: str) -> cri.Mount:
    host, _, rest = text.partition(":")
    where, _, flags = rest.partition(":")
    if not host.startswith("/") or not where.startswith("/"):
        named = not rest or "/" not in host
        why = "there are no volumes but paths of the node: " if named else ""
        message = f"--volume {text!r}: {why}want HOST:CONTAINER[:ro], HOST from / or ./, CONTAINER from /"
        raise InvalidArgumentError(message)
    mount = cri.Mount(host_path=host, container_path=where)
    for flag in filter(None, flags.split(",")):
        if flag in ("ro", "rw"):
            mount.readonly = flag == "ro"
        elif flag in _PROPAGATION:
            mount.propagation = _PROPAGATION[flag]
        elif flag in ("z", "Z"):
            mount.selinux_relabel = True
        else:
            message = f"--volume {text!r}: {flag!r} is none of ro, rw, z, Z, {', '.join(_PROPAGATION)}"
            raise InvalidArgumentError(message)
    return mount


_KEYS = {
    "type": "type",
    "source": "source",
    "src": "source",
    "target": "target",
    "destination": "target",
    "dst": "target",
    "readonly": "readonly",
    "ro": "readonly",
    "bind-propagation": "propagation",
    "image-subpath": "subpath",
    "tmpfs-size": "size",
    "tmpfs-mode": "mode",
}
_ONLY_FOR = {"propagation": "bind", "subpath": "image", "size": "tmpfs", "mode": "tmpfs"}


def _tables(options: Namespace) -> list[tuple[str, dict[str, str]]]:
    """Each --mount with its keys by one name of theirs."""
    return [(text, _table(text)) for text in options.mount]


def _table(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in next(csv.reader([text]), []):
        word, joint, value = part.partition("=")
        key = _KEYS.get(word.strip().lower(), "")
        if not key or (not joint and key != "readonly"):
            raise _wrong(text, f"{part!r} is none of {', '.join(f'{k}=' for k in _KEYS)} and readonly")
        found[key] = value if joint else "true"
    kind = found.get("type", "")
    if kind not in _TYPES:
        given = f"type={kind} is not offered" if kind else "it has no type"
        raise _wrong(text, f"{given}: want type={', type='.join(_TYPES)}")
    for key, only in _ONLY_FOR.items():
        if key in found and kind != only:
            raise _wrong(text, f"{key} is for type={only}")
    if not found.get("target", "").startswith("/"):
        raise _wrong(text, "want target=PATH, an absolute one")
    if found.get("readonly", "true") not in ("true", "false", "1", "0"):
        raise _wrong(text, f"readonly={found['readonly']} is neither true nor false")
    return found


def _mount(text: str, table: dict[str, str]) -> cri.Mount:
    readonly = table.get("readonly", "false") in ("true", "1")
    source = table.get("source", "")
    if table["type"] == "image":
        if not source:
            raise _wrong(text, "want source=IMAGE")
        return cri.Mount(
            container_path=table["target"],
            image=cri.ImageSpec(image=source),
            image_sub_path=table.get("subpath", ""),
            readonly=True,
        )
    source = absolute(source, Path.cwd())
    if not source.startswith("/"):
        raise _wrong(text, "want source=PATH, from / or ./")
    propagation = table.get("propagation", "rprivate")
    if propagation not in _PROPAGATION:
        raise _wrong(text, f"bind-propagation={propagation} is none of {', '.join(_PROPAGATION)}")
    return cri.Mount(
        container_path=table["target"],
        host_path=source,
        readonly=readonly,
        propagation=_PROPAGATION[propagation],
    )


def _memory(text: str, table: dict[str, str]) -> pb.Tmpfs:
    made = pb.Tmpfs(path=table["target"], options=_SAFE)
    if "source" in table:
        raise _wrong(text, "a tmpfs has no source")
    if "size" in table:
        made.options.append(f"size={size_bytes('--mount tmpfs-size', table['size'])}")
    if "mode" in table:
        made.options.append(f"mode={table['mode']}")
    if table.get("readonly", "false") in ("true", "1"):
        made.options.append("ro")
    return made


def _tmpfs(text: str) -> pb.Tmpfs:
    path, _, flags = text.partition(":")
    if not path.startswith("/"):
        message = f"--tmpfs {text!r}: want PATH[:OPTIONS], such as /run:size=64m,mode=1777"
        raise InvalidArgumentError(message)
    given = [flag for flag in flags.split(",") if flag]
    opposite = {"nosuid": "suid", "nodev": "dev", "noexec": "exec"}
    safe = [flag for flag in _SAFE if opposite[flag] not in given and flag not in given]
    sized = [
        f"size={size_bytes('--tmpfs', flag[5:])}"
        if flag.startswith("size=") and not flag.endswith("%")
        else flag
        for flag in given
    ]
    return pb.Tmpfs(path=path, options=[*safe, *sized])


def _device(text: str) -> cri.Device:
    host, *rest = text.split(":")
    where = rest[0] if rest and rest[0].startswith("/") else host
    rights = rest[-1] if rest and not rest[-1].startswith("/") else "rwm"
    fits = len(rest) <= (1 if rights == "rwm" and where != host else 2)
    if not host.startswith("/") or not rights or set(rights) - set("rwm") or not fits:
        message = f"--device {text!r}: want HOST[:CONTAINER][:rwm], such as /dev/fuse"
        raise InvalidArgumentError(message)
    return cri.Device(host_path=host, container_path=where, permissions=rights)


def _wrong(text: str, why: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"--mount {text!r}: {why}")
