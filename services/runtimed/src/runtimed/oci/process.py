"""`process` of an OCI configuration: arguments, environment, directory, user and what it may do."""

import posixpath
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.errors import InvalidArgumentError
from runtimed.oci import capabilities, users
from runtimed.oci.mounts import check_length

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MIN_OOM, MAX_OOM = -1000, 1000
MAX_STRING_BYTES, MAX_STRINGS_BYTES = (128 << 10) - 1, 6 << 20
"""The most that Linux gives a program: one word or variable, and all of them, whatever the stack's limit."""
MAX_VARIABLES = 32_768
"""OCI runtimes look for each among all that are set already: 2 s of a processor for so many."""

# A process's own descriptors and magic links as a directory lead out of the container (CVE-2024-21626).
_SHOWN = 64
_MAGIC = re.compile(r"/(proc/([^/]+)(/task/[^/]+)?/(fd|fdinfo|cwd|root|exe|map_files)|dev/fd)(/.*)?")


def image_process(image_config: dict[str, Any]) -> dict[str, Any]:
    """The `config` part of an image configuration, with names as in the OCI image specification."""
    found = image_config.get("config") or image_config.get("Config") or {}
    if not isinstance(found, dict):
        raise InvalidArgumentError("image config: `config` is no object")
    return found


def arguments(command: list[str], args: list[str], image: dict[str, Any]) -> list[str]:
    """Command replaces the entrypoint and clears the image's arguments; args replace these.

    Raises:
        InvalidArgumentError: nothing is left to run.
    """
    entrypoint = strings(image, "Entrypoint")
    defaults = strings(image, "Cmd")
    if command:
        entrypoint, defaults = command, []
    found = [*entrypoint, *(args or defaults)]
    if not found:
        raise InvalidArgumentError("command: neither the request nor the image has one")
    if not found[0]:
        raise InvalidArgumentError("command: the program's name is empty")
    if any("\x00" in word for word in found):
        raise InvalidArgumentError("command: a word has a zero byte")
    return found


def strings(image: dict[str, Any], key: str) -> list[str]:
    """A list of strings of an image configuration, empty when absent."""
    value = image.get(key) or []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InvalidArgumentError(f"image config: {key} is no list of strings")
    return value


def environment(image: dict[str, Any], envs: Any, hostname: str, *, tty: bool) -> list[str]:
    """Defaults, then the image's variables, then the request's; a later one replaces an earlier one."""
    found = {"PATH": DEFAULT_PATH}
    if tty:
        found["TERM"] = "xterm"
    found["HOSTNAME"] = hostname
    for item in strings(image, "Env"):
        key, equals, value = item.partition("=")
        if not key or not equals or "\x00" in item:
            raise InvalidArgumentError(f"image config: Env {item!r} is not name=value")
        found[key] = value
    for item in envs:
        found[item.key] = check_variable(item.key, item.value)
    return [f"{key}={value}" for key, value in found.items()]


def check_strings(command: Sequence[str], args: Sequence[str], envs: Sequence[Any]) -> None:
    """Refuse words and variables that no program can get.

    Raises:
        InvalidArgumentError: there are too many, one or all are too long, or a variable is none.
    """
    if len(envs) > MAX_VARIABLES:
        raise InvalidArgumentError(f"envs: {len(envs)} variables are more than {MAX_VARIABLES}")
    total = 0
    for field, words in (("command", command), ("args", args)):
        for word in words:
            total += _size(field, word[:_SHOWN], len(word.encode()))
    for item in envs:
        check_variable(item.key, item.value)
        total += _size("envs", item.key[:_SHOWN], len(item.key.encode()) + 1 + len(item.value))
    if total > MAX_STRINGS_BYTES:
        raise InvalidArgumentError(
            f"command, args, envs: {total} bytes are more than the {MAX_STRINGS_BYTES} that Linux gives a program"
        )


def _size(field: str, shown: str, size: int) -> int:
    if size > MAX_STRING_BYTES:
        raise InvalidArgumentError(f"{field}: {shown!r}... is {size} bytes, more than {MAX_STRING_BYTES}")
    return size + 1


def check_variable(key: str, value: bytes) -> str:
    """The value as text: config.json is JSON, so other bytes cannot reach the process as they are."""
    if not key or "=" in key or "\x00" in key or b"\x00" in value:
        raise InvalidArgumentError(f"envs: {key!r} is no name, or its value has a zero byte")
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise InvalidArgumentError(f"envs: the value of {key!r} is not UTF-8") from error


def directory(requested: str, image: dict[str, Any]) -> str:
    """The working directory, absolute and without detours."""
    from_image = image.get("WorkingDir") or ""
    if not isinstance(from_image, str):
        raise InvalidArgumentError("image config: WorkingDir is no string")
    if requested and not requested.startswith("/"):
        raise InvalidArgumentError(f"working_dir: {requested!r} is not absolute")
    path = "/" + posixpath.normpath(f"/{requested or from_image}").lstrip("/")
    if _MAGIC.fullmatch(path) or "\x00" in path:
        raise InvalidArgumentError(f"working_dir: {path!r} is no directory of the container")
    check_length("working_dir", path)
    return path


def oom_score_adj(wanted: int, host_caps: frozenset[str]) -> int:
    """The score, but not below this process's own where the kernel would refuse that."""
    if not MIN_OOM <= wanted <= MAX_OOM:
        raise InvalidArgumentError(f"oom_score_adj: {wanted} is not within {MIN_OOM}..{MAX_OOM}")
    if "CAP_SYS_RESOURCE" in host_caps:
        return wanted
    return max(wanted, int(Path("/proc/self/oom_score_adj").read_text(encoding="ascii")))


def build(
    container: Any, image_config: dict[str, Any], *, rootfs: str, hostname: str, host_caps: frozenset[str]
) -> dict[str, Any]:
    """`process` without LSM labels."""
    context = container.linux.security_context
    image = image_process(image_config)
    image_user = image.get("User") or ""
    if not isinstance(image_user, str):
        raise InvalidArgumentError("image config: User is no string")
    user = users.resolve(context, image_user, rootfs)
    return {
        "terminal": container.tty,
        "user": {"uid": user.uid, "gid": user.gid, "additionalGids": list(user.groups)},
        "args": arguments(list(container.command), list(container.args), image),
        "env": environment(image, container.envs, hostname, tty=container.tty),
        "cwd": directory(container.working_dir, image),
        "capabilities": capabilities.resolve(context, host_caps),
        "noNewPrivileges": context.no_new_privs,
        "oomScoreAdj": oom_score_adj(container.linux.resources.oom_score_adj, host_caps),
    }
