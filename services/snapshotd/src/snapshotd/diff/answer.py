"""What a helper answers, read as what an attacker may have written: bounded, typed, and no path that leads anywhere else."""

import os
import stat
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from common import errors

_Number = Annotated[int, Meta(ge=0, le=1 << 62)]
_Id = Annotated[int, Meta(ge=0, le=0xFFFFFFFE)]
_Path = Annotated[str, Meta(max_length=2048)]
"""From the layer's root, '' itself; a byte is the character of its number."""
_NAME_BYTES = 255
_SHOWN_CHARACTERS = 500


class NonsenseError(Exception):
    """No helper of ours says this."""


class Device(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A device node of the layer; `device` is as makedev gives it."""

    path: _Path
    mode: Annotated[int, Meta(ge=0, le=0o177777)]
    uid: _Id
    gid: _Id
    device: _Number
    mtime_ns: _Number


class Unpacked(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="unpacked"):
    """The answer when all went well; its paths are checked."""

    opaque: list[_Path]
    devices: list[Device]
    implied: list[_Path]
    size_bytes: _Number
    inodes: _Number
    compression: Literal["none", "gzip", "zstd"]


class Failed(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="failed"):
    """Why it did not."""

    error: Literal[
        "DataLossError", "InvalidArgumentError", "ResourceExhaustedError", "UnavailableError", "InternalError"
    ]
    text: Annotated[str, Meta(max_length=1000)]

    def as_error(self, name: str, where: str) -> errors.SlipwayError:
        """The error to raise about what is called `name`; a disk is the one at `where`."""
        text = "".join(c if c.isprintable() else "?" for c in self.text[:_SHOWN_CHARACTERS])
        at = f" (in {where})" if self.error in {"ResourceExhaustedError", "UnavailableError"} else ""
        return errors.BY_REASON[self.error](f"{name}: {text}{at}")


_decoder = msgspec.json.Decoder(Unpacked | Failed)


def read(raw: bytes) -> Unpacked | Failed:
    """An answer, with its paths as the operating system's functions take them.

    Raises:
        NonsenseError: says what is wrong, and repeats nothing of it.
    """
    try:
        said: Unpacked | Failed = _decoder.decode(raw)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as exc:
        raise NonsenseError(f"{type(exc).__name__}") from exc
    if isinstance(said, Failed):
        return said
    return msgspec.structs.replace(
        said,
        opaque=[_checked(path) for path in said.opaque],
        implied=[_checked(path) for path in said.implied],
        devices=[_checked_device(device) for device in said.devices],
    )


def _checked(path: str) -> str:
    try:
        raw = path.encode("latin-1")
    except UnicodeEncodeError as exc:
        raise NonsenseError("a path of no bytes") from exc
    parts = raw.split(b"/") if raw else []
    if b"\0" in raw or any(part in (b"", b".", b"..") or len(part) > _NAME_BYTES for part in parts):
        raise NonsenseError("a path that cannot be")
    return os.fsdecode(raw)


def _checked_device(device: Device) -> Device:
    path = _checked(device.path)
    if not path or not (stat.S_ISCHR(device.mode) or stat.S_ISBLK(device.mode)):
        raise NonsenseError("a device that is none")
    return msgspec.structs.replace(device, path=path)
