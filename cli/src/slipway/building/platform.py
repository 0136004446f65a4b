"""The platform that images are built for: this machine's, since RUN needs its commands to run here."""

import os

from common.errors import InvalidArgumentError

_ARCHITECTURES = {
    "x86_64": ("amd64", ""), "aarch64": ("arm64", ""), "armv7l": ("arm", "v7"), "i686": ("386", ""),
}  # fmt: skip
_DEFAULTS = {"arm64": "v8", "amd64": "v1"}
"""Variants that need not be said."""
_ALIASES = {"x86_64": "amd64", "aarch64": "arm64", "armhf": "arm"}


def own() -> tuple[str, str, str]:
    """Operating system, architecture and variant."""
    machine = os.uname().machine
    return ("linux", *_ARCHITECTURES.get(machine, (machine, "")))


def arguments() -> dict[str, str]:
    """The ARGs of BuildKit that tell of it."""
    system, architecture, variant = own()
    whole = "/".join(filter(None, own()))
    parts = {"PLATFORM": whole, "OS": system, "ARCH": architecture, "VARIANT": variant}
    return {f"{side}{name}": value for side in ("BUILD", "TARGET") for name, value in parts.items()}


def check(text: str) -> None:
    """Let a --platform pass that is this machine's.

    Raises:
        InvalidArgumentError: it is another.
    """
    system, architecture, variant = own()
    words = text.lower().split("/")
    if len(words) == 1 and words[0] != system:
        words = [system, *words]
    wanted = [*words, "", ""][:3]
    wanted[1] = _ALIASES.get(wanted[1], wanted[1]) or architecture
    if wanted[2] == _DEFAULTS.get(wanted[1]):
        wanted[2] = ""
    if wanted[:2] != [system, architecture] or wanted[2] not in ("", variant) or len(words) > 3:
        message = f"--platform={text}: images are made for {arguments()['TARGETPLATFORM']} here"
        raise InvalidArgumentError(message)
