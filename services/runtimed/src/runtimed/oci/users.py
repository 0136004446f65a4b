"""Who a container runs as: CRI's user and group, the image's USER, and the rootfs's /etc/passwd and /etc/group.

The image is hostile: files are opened beneath the rootfs, must be regular and small; a number is a bounded
decimal, all else is a name or refused, so that nothing odd becomes root by accident (CVE-2024-40635).
"""

import os
import re
import stat
from typing import Any

import msgspec

from common.errors import InvalidArgumentError
from common.sys import linux

MAX_ID = 2**31 - 1
MAX_FILE_BYTES = 1 << 20
MAX_GROUPS = 65536  # NGROUPS_MAX of linux/limits.h
STRICT = 1  # SupplementalGroupsPolicy.Strict

_DECIMAL = re.compile(r"[0-9]{1,10}")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,255}\$?")


class User(msgspec.Struct, frozen=True):
    """`process.user` of the OCI configuration."""

    uid: int
    gid: int
    groups: tuple[int, ...]


class PasswdEntry(msgspec.Struct, frozen=True):
    """A line of /etc/passwd."""

    name: str
    uid: int
    gid: int


class GroupEntry(msgspec.Struct, frozen=True):
    """A line of /etc/group."""

    name: str
    gid: int
    members: frozenset[str]


def parse_id(field: str, text: str) -> int | None:
    """A number, or None when the text is a name.

    Raises:
        InvalidArgumentError: neither a bounded decimal nor a name.
    """
    if _DECIMAL.fullmatch(text):
        return check_id(field, int(text))
    if _NAME.fullmatch(text):
        return None
    raise InvalidArgumentError(f"{field}: {text!r} is neither a decimal id nor a name")


def check_id(field: str, value: int) -> int:
    if not 0 <= value <= MAX_ID:
        raise InvalidArgumentError(f"{field}: {value} is not within 0..{MAX_ID}")
    return value


def parse_user(text: str) -> tuple[str, str]:
    """The parts of USER: "user", "user:group" or "".

    Raises:
        InvalidArgumentError: a part is malformed or empty.
    """
    user, colon, group = text.partition(":")
    if not text:
        return "", ""
    parse_id("image USER", user)
    if colon:
        parse_id("image USER", group)
    return user, group


def resolve(context: Any, image_user: str, rootfs: str) -> User:
    """The user of a container's processes.

    Raises:
        InvalidArgumentError: a group without a user, a number out of range, or a name that the rootfs lacks.
    """
    user, group = _requested(context, image_user)
    passwd = read_passwd(rootfs)
    uid, gid, name = _find_user(user, passwd)
    groups = read_groups(rootfs)
    if group:
        gid = _find_group(group, groups)
    listed = [check_id("supplemental_groups", value) for value in context.supplemental_groups]
    merged = {gid, *listed}
    if context.supplemental_groups_policy != STRICT and name:
        merged |= {entry.gid for entry in groups if name in entry.members}
    if len(merged) > MAX_GROUPS:
        raise InvalidArgumentError(f"supplemental_groups: {len(merged)} are too many")
    return User(uid=uid, gid=gid, groups=tuple(sorted(merged)))


def _requested(context: Any, image_user: str) -> tuple[str, str]:
    user = ""
    if context.HasField("run_as_user"):
        user = str(check_id("run_as_user", context.run_as_user.value))
    if context.run_as_username:
        user = context.run_as_username
        parse_id("run_as_username", user)
    if context.HasField("run_as_group"):
        if not user:
            raise InvalidArgumentError("run_as_group: needs run_as_user or run_as_username")
        return user, str(check_id("run_as_group", context.run_as_group.value))
    return (user, "") if user else parse_user(image_user)


def _find_user(user: str, passwd: list[PasswdEntry]) -> tuple[int, int, str]:
    number = parse_id("user", user) if user else 0
    for entry in passwd:
        if (number is None and entry.name == user) or (number is not None and entry.uid == number):
            return entry.uid, entry.gid, entry.name
    if number is None:
        raise InvalidArgumentError(f"user {user!r}: no valid entry in the image's /etc/passwd")
    return number, 0, ""


def _find_group(group: str, groups: list[GroupEntry]) -> int:
    number = parse_id("group", group)
    if number is not None:
        return number
    for entry in groups:
        if entry.name == group:
            return entry.gid
    raise InvalidArgumentError(f"group {group!r}: no valid entry in the image's /etc/group")


def read_passwd(rootfs: str) -> list[PasswdEntry]:
    """The valid lines of /etc/passwd; others cannot be resolved and are left out."""
    found = []
    for line in _read_beneath(rootfs, "etc/passwd").split("\n"):
        fields = line.split(":")
        if len(fields) >= 4 and _valid(fields[0], fields[2]) and _bounded(fields[3]):
            found.append(PasswdEntry(name=fields[0], uid=int(fields[2]), gid=int(fields[3])))
    return found


def read_groups(rootfs: str) -> list[GroupEntry]:
    """The valid lines of /etc/group."""
    found = []
    for line in _read_beneath(rootfs, "etc/group").split("\n"):
        fields = line.split(":")
        if len(fields) >= 4 and _valid(fields[0], fields[2]):
            members = frozenset(fields[3].split(","))
            found.append(GroupEntry(name=fields[0], gid=int(fields[2]), members=members))
    return found


def _valid(name: str, number: str) -> bool:
    return bool(_NAME.fullmatch(name)) and _bounded(number)


def _bounded(number: str) -> bool:
    return bool(_DECIMAL.fullmatch(number)) and int(number) <= MAX_ID


def _read_beneath(rootfs: str, path: str) -> str:
    """Content of a file of the rootfs, "" when it is not there; links stay inside."""
    root = os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # O_NONBLOCK: a FIFO in its place must not hang us.
        fd = linux.openat2(root, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as error:
        raise InvalidArgumentError(f"the image's /{path} cannot be opened: {error.strerror}") from error
    finally:
        os.close(root)
    with open(fd, "rb") as file:  # noqa: PTH123 - a descriptor
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_FILE_BYTES:
            raise InvalidArgumentError(
                f"the image's /{path} is no regular file of at most {MAX_FILE_BYTES} bytes"
            )
        return file.read(MAX_FILE_BYTES).decode("utf-8", "surrogateescape")
