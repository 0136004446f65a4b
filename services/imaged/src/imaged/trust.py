"""Whose images may be here: a policy by repository, in the form of containers-policy.json(5).

{"default": [{"type": "reject"}],
 "transports": {"docker": {"registry.example/team": [{"type": "sigstoreSigned", "keyPath": "/etc/…/team.pub"}]}}}

What is not understood is refused, never ignored: a requirement that is skipped would let images pass.
"""

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Protocol

from common.errors import FailedPreconditionError
from imaged.reference import Reference

MAX_POLICY_BYTES = 4 << 20
MAX_SHOWN = 200
"""Characters of a value that a message shows."""
_ACCEPT, _REJECT, _SIGNED = "insecureAcceptAnything", "reject", "sigstoreSigned"
_IDENTITIES = ("matchRepository", "matchExact", "matchRepoDigestOrExact")
_ARCHIVES = ("docker-archive", "oci-archive")
_ELSEWHERE = ("atomic", "containers-storage", "dir", "docker-daemon", "oci", "ostree", "sif", "tarball")
"""Transports of other programs, by which nothing comes here."""
_KEYS = ("keyPath", "keyPaths", "keyData", "keyDatas")


@dataclass(frozen=True, slots=True)
class Rule:
    """One requirement; all of a scope must hold."""

    kind: str
    keys: tuple[bytes, ...] = ()
    """Public keys in PEM, of which one must have signed."""
    identity: str = ""
    """How the name in a signature must fit; empty: its repository, where it has a name at all."""
    scope: str = ""
    """Where in the policy it stands, for messages."""

    @property
    def accepts_all(self) -> bool:
        return self.kind == _ACCEPT

    @property
    def rejects_all(self) -> bool:
        return self.kind == _REJECT


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy file, understood whole."""

    default: tuple[Rule, ...]
    docker: Mapping[str, tuple[Rule, ...]]
    """By scope."""
    archives: Mapping[str, tuple[Rule, ...]]
    """By the form of archives: docker-archive, oci-archive."""

    def of_image(self, reference: Reference) -> tuple[Rule, ...]:
        """What is demanded of an image by its name."""
        for scope in scopes_of(reference):
            if scope in self.docker:
                return self.docker[scope]
        return self.default

    def of_archive(self, form: str) -> tuple[Rule, ...] | None:
        """What is demanded of all images in archives of a form; None where the policy says nothing of these."""
        return self.archives.get(form)


class Verifier(Protocol):
    """Checks a signature."""

    def __call__(self, key: bytes, signature: bytes, payload: bytes) -> bool:
        """Whether a key in PEM made it. Blocking.

        Raises:
            FailedPreconditionError: it is no public key of a kind that is known.
        """


def read(path: Path, verify: Verifier) -> Policy:
    """Read a policy with its keys, which `verify` must know. Blocking.

    Raises:
        FailedPreconditionError: it cannot be read, or has something in it that is not understood; the message has
            the file, the key and the value.
    """
    try:
        if path.stat().st_size > MAX_POLICY_BYTES:
            _refuse(path, f"it is larger than {MAX_POLICY_BYTES} bytes")
        document = json.loads(path.read_bytes(), object_pairs_hook=_once)
    except OSError as exc:
        _refuse(path, str(exc.strerror))
    except (ValueError, RecursionError) as exc:
        _refuse(path, f"it is malformed: {exc}")
    return _Reader(path, verify).policy(document)


def scopes_of(reference: Reference) -> list[str]:
    """The scopes that an image is in, the narrowest first."""
    found = [str(reference)]
    name = reference.repository
    while name:
        found.append(name)
        name = name.rpartition("/")[0]
    host = reference.domain.partition(":")[0]
    labels = host.split(".")
    found += [f"*.{'.'.join(labels[start:])}" for start in range(1, len(labels))]
    return [*found, ""]


class _Reader:
    """Reads one file; every refusal says where in it."""

    def __init__(self, path: Path, verify: Verifier) -> None:
        self._path, self._verify = path, verify

    def policy(self, document: object) -> Policy:
        top = self._object("", document, ("default", "transports"))
        transports = self._object(
            "transports", top.get("transports", {}), ("docker", *_ARCHIVES, *_ELSEWHERE)
        )
        docker = self._object("transports.docker", transports.get("docker", {}))
        archives = {}
        for form in _ARCHIVES:
            where = f"transports.{form}"
            scopes = self._object(where, transports.get(form, {}), ("",))
            for scope, rules in scopes.items():
                archives[form] = self._rules(f'{where}."{scope}"', form, rules)
        return Policy(
            self._rules("default", "default", top.get("default", [])),
            {s: self._rules(f'transports.docker."{s}"', s or "docker", r) for s, r in docker.items()},
            archives,
        )

    def _rules(self, where: str, scope: str, value: object) -> tuple[Rule, ...]:
        if not isinstance(value, list) or not value:
            self._wrong(where, value, "want at least one requirement, such as reject")
        return tuple(self._rule(f"{where}[{n}]", scope, each) for n, each in enumerate(value))

    def _rule(self, where: str, scope: str, value: object) -> Rule:
        kind = value.get("type") if isinstance(value, dict) else value
        if kind in (_ACCEPT, _REJECT):
            self._object(where, value, ("type",))
            return Rule(kind, scope=scope)
        if kind != _SIGNED:
            self._wrong(f"{where}.type", kind, f"{_ACCEPT}, {_REJECT} and {_SIGNED} are supported")
        said = self._object(where, value, ("type", *_KEYS, "signedIdentity"))
        identity = ""
        if "signedIdentity" in said:
            at = f"{where}.signedIdentity"
            identity = str(self._object(at, said["signedIdentity"], ("type",)).get("type"))
            if identity not in _IDENTITIES:
                self._wrong(f"{at}.type", identity, f"{', '.join(_IDENTITIES)} are supported")
        keys = [*self._files(where, said), *self._inline(where, said)]
        if not keys:
            self._wrong(where, value, f"{_SIGNED} wants {', '.join(_KEYS[:-1])} or {_KEYS[-1]}")
        return Rule(_SIGNED, tuple(keys), identity, scope)

    def _files(self, where: str, said: dict[str, Any]) -> list[bytes]:
        keys = []
        for at, name in self._texts(where, said, "keyPath", "keyPaths"):
            try:
                keys.append(self._known(at, name, Path(name).read_bytes()))
            except (OSError, ValueError) as exc:
                self._wrong(at, name, str(getattr(exc, "strerror", None) or exc))
        return keys

    def _inline(self, where: str, said: dict[str, Any]) -> list[bytes]:
        keys = []
        for at, text in self._texts(where, said, "keyData", "keyDatas"):
            try:
                keys.append(self._known(at, text, base64.b64decode(text, validate=True)))
            except (binascii.Error, ValueError):
                self._wrong(at, text, "it is no base64")
        return keys

    def _known(self, where: str, value: str, key: bytes) -> bytes:
        try:
            self._verify(key, b"", b"")
        except FailedPreconditionError as exc:
            self._wrong(where, value, exc.message)
        return key

    def _texts(self, where: str, said: dict[str, Any], one: str, many: str) -> list[tuple[str, str]]:
        """What the key `one` and the list `many` have, each with its place."""
        listed = said.get(many, [])
        if not isinstance(listed, list):
            self._wrong(f"{where}.{many}", listed, "want a list of strings")
        found = [(f"{where}.{one}", said[one])] if one in said else []
        found += [(f"{where}.{many}[{n}]", each) for n, each in enumerate(listed)]
        for at, each in found:
            if not isinstance(each, str):
                self._wrong(at, each, "want a string")
        return found

    def _object(self, where: str, value: object, keys: tuple[str, ...] | None = None) -> dict[str, Any]:
        """An object, with no keys but these."""
        if not isinstance(value, dict):
            self._wrong(where or "the document", value, "want an object")
        for key, each in value.items():
            if keys is not None and key not in keys:
                known = ", ".join(k or '""' for k in keys)
                self._wrong(f'{where}."{key}"' if where else key, each, f"not supported; {known} are")
        return value

    def _wrong(self, where: str, value: object, why: str) -> NoReturn:
        shown = json.dumps(value)
        _refuse(self._path, f"{where}: {shown[:MAX_SHOWN]}: {why}")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys come once: of two, a reader would see one and a program the other."""
    made: dict[str, Any] = {}
    for key, value in pairs:
        if key in made:
            raise ValueError(f"the key {key!r} comes twice in one object")
        made[key] = value
    return made


def _refuse(path: Path, why: str) -> NoReturn:
    raise FailedPreconditionError(f"signature policy {path}: {why}")
