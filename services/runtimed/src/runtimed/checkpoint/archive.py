"""The files of a checkpoint. What is written is private; what is read may come from anybody. All blocking.

A container's archive is a tar of regular files: config.dump, spec.dump, status.dump, checkpoint/*, rootfs-diff.tar
and container.log. A pod's checkpoint is a directory of such archives and pod.json, which names them.
"""

import errno
import hashlib
import os
import re
import stat
import tarfile
from collections.abc import Callable, Mapping
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import IO

import msgspec

from common.errors import FailedPreconditionError, InvalidArgumentError
from common.tarmember import Member, members

MANIFEST = "pod.json"
IMAGES = "checkpoint"
DIFF = "rootfs-diff.tar"
MAX_MANIFEST_BYTES = 1 << 20
MAX_MEMBERS = 100_000
_MEMBER = re.compile(
    r"(config|spec|status)\.dump|rootfs-diff\.tar|container\.log|checkpoint/[A-Za-z0-9][A-Za-z0-9._+-]*"
)
_BLOCK_BYTES = 1 << 20
_OPAQUE = "trusted.overlay.opaque"
_UNTELLABLE = {"trusted.overlay.redirect", "trusted.overlay.metacopy"}
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


def write(path: Path, texts: Mapping[str, bytes], files: Mapping[str, Path], temporary: Path) -> None:
    """Write a container's archive, forced to disk, as a new file of mode 0600; only regular files go in.

    Args:
        path: the new file, which is there once it is whole.
        texts: contents by member.
        files: regular files, or directories of such, by member.
        temporary: in the same directory; on a failure it is there in part, and the caller's to remove.
    """
    with _create(temporary) as out, tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
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
    _sync(temporary)
    if os.path.lexists(path):  # by now
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    temporary.rename(path)
    _sync(path.parent)


def write_diff(path: Path, upper: Path) -> None:
    """Write what a container changed in its root: whiteouts as overlayfs has them, opaque directories as layers do.

    Raises:
        FailedPreconditionError: overlayfs keeps something of it that a tar cannot tell.
    """
    with _create(path) as out, tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        waiting = [upper]
        while waiting:
            entry = waiting.pop()
            name = str(entry.relative_to(upper))
            xattrs = {key: os.getxattr(entry, key, follow_symlinks=False) for key in _xattrs(entry)}
            if kept := _UNTELLABLE & xattrs.keys():
                raise FailedPreconditionError(f"{entry}: has {kept.pop()}, which no tar can tell")
            tar.add(entry, arcname=name, recursive=False, filter=partial(_with_xattrs, xattrs))
            if xattrs.get(_OPAQUE) == b"y":
                tar.addfile(tarfile.TarInfo(f"{name}/.wh..wh..opq"))
            if stat.S_ISDIR(entry.lstat().st_mode):
                waiting += sorted(entry.iterdir(), reverse=True)


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
        _check(directory / held.archive, lambda _tar, _member: None)
    return found


def unpack(path: Path, target: Path) -> str:
    """Write an archive's dump and diff into an empty directory; returns the diff's digest.

    Raises:
        InvalidArgumentError: it is no container's archive.
        OSError: with the path.
    """
    digest = hashlib.sha256()
    (target / IMAGES).mkdir(mode=0o700)

    def take(tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        body = tar.extractfile(member)
        if body is None or (member.name != DIFF and not member.name.startswith(f"{IMAGES}/")):
            return
        with _create(target / member.name) as out:
            while block := body.read(_BLOCK_BYTES):
                out.write(block)
                if member.name == DIFF:
                    digest.update(block)

    _check(path, take)
    if not (target / DIFF).exists():
        raise InvalidArgumentError(f"checkpoint_path: {path.name}: has no {DIFF}")
    return f"sha256:{digest.hexdigest()}"


def remove_all(directory: Path) -> None:
    """Remove the files that a failed checkpoint left."""
    for entry in directory.iterdir():
        entry.unlink()


def _check(path: Path, take: Callable[[tarfile.TarFile, tarfile.TarInfo], None]) -> None:
    """Go through an archive, and hand out each member that is as it must be."""
    seen: set[str] = set()
    with _open(path) as file:
        try:
            with tarfile.open(fileobj=file, mode="r:", tarinfo=Member) as tar:
                for member in members(tar):
                    plain = member.isreg() and not member.issparse() and member.size >= 0
                    if not plain or not _MEMBER.fullmatch(member.name) or member.name in seen:
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
                    take(tar, member)
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


def _xattrs(path: Path) -> list[str]:
    try:
        return os.listxattr(path, follow_symlinks=False)
    except OSError as exc:
        if exc.errno == errno.ENOTSUP:
            return []
        raise


def _with_xattrs(xattrs: Mapping[str, bytes], member: tarfile.TarInfo) -> tarfile.TarInfo:
    """As libarchive reads them; those of overlayfs are told in other ways."""
    member.pax_headers = {
        f"SCHILY.xattr.{name}": value.decode(errors="surrogateescape")
        for name, value in xattrs.items()
        if not name.startswith("trusted.")
    }
    return member
