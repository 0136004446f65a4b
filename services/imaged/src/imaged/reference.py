"""Image references, normalised as docker does: `busybox` is `docker.io/library/busybox:latest`."""

import re
from dataclasses import dataclass
from typing import NoReturn, Self

from common.digest import Digest
from common.errors import InvalidArgumentError

DEFAULT_DOMAIN = "docker.io"
MAX_NAME = 255
"""Longest repository name, domain and path together (distribution/reference)."""
_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?")
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_PATH = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_ID = re.compile(r"[a-f0-9]{64}")


@dataclass(frozen=True, slots=True)
class Reference:
    """A repository with a tag or a digest; str() is the normalised form.

    A digest makes the tag meaningless, so that a reference with both keeps the digest only.
    """

    domain: str
    path: str
    tag: str = ""
    digest: Digest | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read and normalise a reference.

        Raises:
            InvalidArgumentError: the text is no reference; the message names it and says why.
        """
        name, at, digest_text = text.partition("@")
        digest = _digest(text, digest_text) if at else None
        if _ID.fullmatch(name):
            _refuse(text, "64 hex digits are an image id, not a name")
        head, colon, tag = name.rpartition(":")
        if colon and "/" not in tag:
            name = head
            if not _TAG.fullmatch(tag):
                _refuse(text, f"the tag {tag!r} wants [A-Za-z0-9_.-], at most 128 of them")
        else:
            tag = ""
        domain, path = _split(name)
        if not path:
            _refuse(text, "it has no repository name")
        if not _DOMAIN.fullmatch(domain):
            _refuse(text, f"the registry {domain!r} is no host name")
        if not _PATH.fullmatch(path):
            lower = " (must be lowercase)" if path != path.lower() else ""
            _refuse(text, f"the repository {path!r} is malformed{lower}")
        if len(domain) + 1 + len(path) > MAX_NAME:
            _refuse(text[:64] + "...", f"the name is longer than {MAX_NAME} characters")
        return cls(domain, path, "" if digest else tag or "latest", digest)

    @property
    def repository(self) -> str:
        """Registry and path, without tag or digest."""
        return f"{self.domain}/{self.path}"

    @property
    def object(self) -> str:
        """What to ask the registry for: the digest, or else the tag."""
        return str(self.digest or self.tag)

    def at(self, digest: Digest) -> str:
        """The repo digest: this repository at a digest."""
        return f"{self.repository}@{digest}"

    def __str__(self) -> str:
        return f"{self.repository}@{self.digest}" if self.digest else f"{self.repository}:{self.tag}"


def expanded(text: str, registry: str) -> str:
    """A name without a registry as a name of this one; others stay as they are.

    Raises:
        InvalidArgumentError: no registry is given for such names.
    """
    head, slash, _ = text.partition("/")
    if slash and ("." in head or ":" in head or head == "localhost"):
        return text
    if not registry:
        _refuse(text, "it names no registry, and the setting short_names has none for such names")
    return text if registry == DEFAULT_DOMAIN else f"{registry}/{text}"


def _split(name: str) -> tuple[str, str]:
    domain, slash, path = name.partition("/")
    if not slash or not ("." in domain or ":" in domain or domain == "localhost" or domain.lower() != domain):
        domain, path = DEFAULT_DOMAIN, name
    if domain == "index.docker.io":
        domain = DEFAULT_DOMAIN
    if domain == DEFAULT_DOMAIN and path and "/" not in path:
        path = f"library/{path}"
    return domain, path


def _digest(text: str, digest_text: str) -> Digest:
    try:
        return Digest.parse(digest_text)
    except InvalidArgumentError as exc:
        raise InvalidArgumentError(f"image reference {text!r}: {exc.message}") from exc


def _refuse(text: str, why: str) -> NoReturn:
    raise InvalidArgumentError(f"image reference {text!r} is invalid: {why}")
