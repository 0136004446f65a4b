"""Device specifications of the Container Device Interface (CDI 0.3 to 1.1): found, read, checked.

The files are the operator's and his device plugins'. They are read for each container that wants a device: there is
nothing to reload. A file that cannot be used takes only its own devices away.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from common.errors import InvalidArgumentError
from runtimed.oci.mounts import contained

MAX_SPEC_BYTES = 4 << 20
MAX_FILES = 1000
VERSIONS = ("0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0")
HOOKS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
NO_ACCESS = "none"

# vendor/class=device of the CDI specification
_VENDOR = r"[A-Za-z](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?"
_CLASS = r"[A-Za-z](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?"
_KIND = re.compile(f"{_VENDOR}/{_CLASS}")
_DEVICE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.:-]*[A-Za-z0-9])?")


class _Table(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """What the CDI specification writes in camel case; a field that it does not know makes a file unusable."""


class DeviceNode(_Table, frozen=True, kw_only=True):
    """A node in the container's /dev; type and number are the host's when not given."""

    path: str
    host_path: str = ""
    type: str = ""
    major: int = 0
    minor: int = 0
    file_mode: int | None = None
    permissions: str = ""
    uid: int | None = None
    gid: int | None = None


class Mount(_Table, frozen=True, kw_only=True):
    """A mount; a bind mount when it has no type."""

    host_path: str
    container_path: str
    type: str = ""
    options: list[str] = []


class Hook(_Table, frozen=True, kw_only=True):
    """A program that the OCI runtime runs at a point of the container's life; the timeout is in seconds."""

    hook_name: str
    path: str
    args: list[str] = []
    env: list[str] = []
    timeout: int | None = None


class Edits(_Table, frozen=True, kw_only=True):
    """What a device changes of a container's OCI configuration."""

    env: list[str] = []
    device_nodes: list[DeviceNode] = []
    net_devices: list[dict[str, str]] = []
    mounts: list[Mount] = []
    hooks: list[Hook] = []
    additional_gids: list[int] = msgspec.field(default_factory=list, name="additionalGids")
    intel_rdt: dict[str, Any] = {}


class Device(_Table, frozen=True, kw_only=True):
    """One device, and the edits that are its own."""

    name: str
    annotations: dict[str, str] = {}
    container_edits: Edits = Edits()


class Spec(_Table, frozen=True, kw_only=True):
    """One file; `container_edits` are for each container that gets any of its devices."""

    cdi_version: str
    kind: str
    annotations: dict[str, str] = {}
    devices: list[Device]
    container_edits: Edits = Edits()


class Found(msgspec.Struct, frozen=True):
    """The devices of a node, by qualified name, and what is wrong with what cannot be had."""

    devices: dict[str, tuple[Spec, Device]]
    problems: list[str]


def check_name(name: str) -> None:
    """Refuse what is no qualified device name.

    Raises:
        InvalidArgumentError: with the name.
    """
    kind, equals, device = name.partition("=")
    if not equals or not _KIND.fullmatch(kind) or not _DEVICE.fullmatch(device):
        raise InvalidArgumentError(f"CDI_devices: {name!r} is not vendor/class=device")


def find(directories: Sequence[str]) -> Found:
    """All devices of the directories; a later one goes before an earlier. Blocking.

    Of two files in one directory that have the same device, neither counts.
    """
    devices: dict[str, tuple[Spec, Device]] = {}
    problems: list[str] = []
    for directory in directories:
        here: dict[str, tuple[Spec, Device]] = {}
        twice = set()
        for path in _files(Path(directory)):
            try:
                spec = read(path)
            except InvalidArgumentError as error:
                problems.append(error.message)
                continue
            for device in spec.devices:
                name = f"{spec.kind}={device.name}"
                if name in here:
                    twice.add(name)
                    problems.append(f"{path}: {name!r} is in another file of {directory} too")
                here[name] = (spec, device)
        devices |= here
        devices = {name: found for name, found in devices.items() if name not in twice}
    return Found(devices, problems)


def _files(directory: Path) -> Iterator[Path]:
    try:
        names = sorted(directory.iterdir())
    except OSError:
        return
    yield from [path for path in names if path.suffix in {".json", ".yaml"} and path.is_file()][:MAX_FILES]


def read(path: Path) -> Spec:
    """One specification, checked. Blocking.

    Raises:
        InvalidArgumentError: it is none that can be used, with the path and the reason.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_SPEC_BYTES + 1)
        if len(raw) > MAX_SPEC_BYTES:
            raise InvalidArgumentError(f"{path}: is larger than {MAX_SPEC_BYTES} bytes")
        decode = msgspec.json.decode if path.suffix == ".json" else msgspec.yaml.decode
        spec = decode(raw, type=Spec)
    except (OSError, msgspec.DecodeError) as error:
        raise InvalidArgumentError(f"{path}: {error}") from error
    if spec.cdi_version.removeprefix("v") not in VERSIONS:
        raise InvalidArgumentError(f"{path}: cdiVersion {spec.cdi_version!r} is not supported")
    if not _KIND.fullmatch(spec.kind):
        raise InvalidArgumentError(f"{path}: kind {spec.kind!r} is not vendor/class")
    for device in spec.devices:
        if not _DEVICE.fullmatch(device.name):
            raise InvalidArgumentError(f"{path}: name {device.name!r} is no device name")
    for edits in (spec.container_edits, *(device.container_edits for device in spec.devices)):
        _check_edits(path, edits)
    return spec


def _check_edits(path: Path, edits: Edits) -> None:
    for variable in edits.env:
        if variable.find("=") <= 0 or "\x00" in variable:
            raise InvalidArgumentError(f"{path}: env {variable!r} is not name=value")
    for node in edits.device_nodes:
        contained(f"{path}: deviceNodes.path", node.path)
        if node.type not in {"", "b", "c", "u", "p"} or node.major < 0 or node.minor < 0:
            raise InvalidArgumentError(
                f"{path}: deviceNodes: {node.path!r} has no type and number of a device"
            )
        if node.permissions != NO_ACCESS and set(node.permissions) - set("rwm"):
            raise InvalidArgumentError(f"{path}: deviceNodes.permissions: {node.permissions!r}")
    for mount in edits.mounts:
        contained(f"{path}: mounts.containerPath", mount.container_path)
        if not mount.host_path:
            raise InvalidArgumentError(f"{path}: mounts.hostPath: is empty")
    for hook in edits.hooks:
        if hook.hook_name not in HOOKS or not hook.path.startswith("/"):
            raise InvalidArgumentError(f"{path}: hooks: {hook.hook_name!r} {hook.path!r}")
