"""The files of a checkpoint. What is written is private; what is read may come from anybody. All blocking.

A container's archive is a tar of regular files: config.dump, spec.dump, status.dump, checkpoint/*, rootfs-diff.tar
and container.log. A pod's checkpoint is a directory of such archives and pod.json, which names them.
"""

import os
import re
import stat
import tarfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import IO

import msgspec

from common.errors import InvalidArgumentError

MANIFEST = "pod.json"
MAX_MANIFEST_BYTES = 1 << 20
MAX_MEMBERS = 100_000
_MEMBER = re.compile(
    r"(config|spec|status)\.dump|rootfs-diff\.tar|container\.log|checkpoint/[A-Za-z0-9][A-Za-z0-9._+-]*"
)
_ARCHIVE = re.compile(r"\d{1,4}\.tar")


class Held(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One container in a pod's checkpoint."""

    name: str
    archive: str
    image_id: str


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """pod.json."""

    pod: str
    namespace: str
    uid: str
    containers: list[Held]
    schema: int = 1


def write(path: Path, texts: Mapping[str, bytes], files: Mapping[str, Path]) -> None:
    """Write a container's archive, forced to disk, as a new file of mode 0600; only regular files go in.

    Args:
        path: the new file; on a failure it is there in part, and the caller's to remove.
        texts: contents by member.
        files: regular files, or directories of such, by member.
    """
    with _create(path) as out, tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, body in texts.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(body), 0o600
            tar.addfile(member, BytesIO(body))
        for name, source in files.items():
            if source.is_dir():
                for entry in sorted(source.iterdir()):
                    _add_file(tar, f"{name}/{entry.name}", entry)
            else:
                _add_file(tar, name, source)
    _sync(path)


def write_diff(path: Path, upper: Path) -> None:
    """Write what a container changed below its root, whiteouts as overlayfs has them."""
    with _create(path) as out, tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for entry in sorted(upper.iterdir()):
            tar.add(entry, arcname=entry.name)


def write_manifest(directory: Path, manifest: Manifest) -> None:
    with _create(directory / MANIFEST) as out:
        out.write(msgspec.json.format(msgspec.json.encode(manifest)))
    _sync(directory / MANIFEST)
    _sync(directory)


def read_pod(directory: Path) -> Manifest:
    """A pod's checkpoint, checked whole: nothing in it is a link, a device or out of its place.

    Raises:
        InvalidArgumentError: what is wrong with which file.
    """
    with _open(directory / MANIFEST) as file:
        body = file.read(MAX_MANIFEST_BYTES + 1)
    try:
        if len(body) > MAX_MANIFEST_BYTES:
            raise InvalidArgumentError(
                f"checkpoint_path: {MANIFEST} is larger than {MAX_MANIFEST_BYTES} bytes"
            )
        found = msgspec.json.decode(body, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise InvalidArgumentError(f"checkpoint_path: {MANIFEST}: {exc}") from exc
    if found.schema != 1:
        raise InvalidArgumentError(f"checkpoint_path: {MANIFEST}: schema {found.schema} is unknown")
    for held in found.containers:
        if not _ARCHIVE.fullmatch(held.archive):
            raise InvalidArgumentError(f"checkpoint_path: {MANIFEST}: {held.archive!r} is no archive's name")
        _check(directory / held.archive)
    return found


def remove_all(directory: Path) -> None:
    """Remove the files that a failed checkpoint left."""
    for entry in directory.iterdir():
        entry.unlink()


def _check(path: Path) -> None:
    seen: set[str] = set()
    with _open(path) as file:
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for member in tar:
                    if not member.isreg() or not _MEMBER.fullmatch(member.name) or member.name in seen:
                        raise InvalidArgumentError(
                            f"checkpoint_path: {path.name}: {member.name!r} is no file of a checkpoint"
                        )
                    seen.add(member.name)
                    if (
                        len(seen) > MAX_MEMBERS
                        or member.offset_data + member.size > os.fstat(file.fileno()).st_size
                    ):
                        raise InvalidArgumentError(
                            f"checkpoint_path: {path.name}: is cut off or has too many files"
                        )
        except tarfile.TarError as exc:
            raise InvalidArgumentError(f"checkpoint_path: {path.name}: {exc}") from exc


def _open(path: Path) -> IO[bytes]:
    """A regular file, for reading, no link followed."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as exc:
        raise InvalidArgumentError(f"checkpoint_path: {path.name}: {exc.strerror}") from exc
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise InvalidArgumentError(f"checkpoint_path: {path.name}: is no regular file")
    return os.fdopen(fd, "rb")


def _create(path: Path) -> IO[bytes]:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags, 0o600), "wb")


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _add_file(tar: tarfile.TarFile, name: str, source: Path) -> None:
    fd = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            return
        member = tarfile.TarInfo(name)
        member.size, member.mode, member.mtime = found.st_size, 0o600, int(found.st_mtime)
        tar.addfile(member, file)
