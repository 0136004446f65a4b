"""Whose images may be pulled: a policy by repository, in the form of containers-policy.json(5). Reading it is pure.

{"default": [{"type": "reject"}],
 "transports": {"docker": {"registry.example/team": [{"type": "sigstoreSigned", "keyPath": "/etc/…/team.pub"}]}}}
"""

import base64
import binascii
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from common.errors import FailedPreconditionError
from imaged.reference import Reference

MAX_POLICY_BYTES = 4 << 20
_ACCEPT, _REJECT, _SIGNED = "insecureAcceptAnything", "reject", "sigstoreSigned"
_IDENTITIES = ("matchRepository", "matchExact", "matchRepoDigestOrExact")


@dataclass(frozen=True, slots=True)
class Rule:
    """One requirement; all of a scope must hold."""

    kind: str
    keys: tuple[bytes, ...] = ()
    """Public keys in PEM, of which one must have signed."""
    identity: str = _IDENTITIES[0]
    scope: str = ""
    """Where in the policy it stands, for messages."""

    @property
    def accepts_all(self) -> bool:
        return self.kind == _ACCEPT

    @property
    def rejects_all(self) -> bool:
        return self.kind == _REJECT


class _Requirement(msgspec.Struct, rename="camel"):
    type: str
    key_path: str = ""
    key_paths: list[str] = []
    key_data: str = ""
    signed_identity: dict[str, Any] = {}


class _Policy(msgspec.Struct):
    default: list[_Requirement] = []
    transports: dict[str, dict[str, list[_Requirement]]] = {}


def rules_for(path: Path, reference: Reference) -> list[Rule]:
    """What a policy demands of an image; read anew each time. Blocking.

    Raises:
        FailedPreconditionError: the policy or a key cannot be read, or demands what is not supported.
    """
    try:
        if path.stat().st_size > MAX_POLICY_BYTES:
            _refuse(path, f"it is larger than {MAX_POLICY_BYTES} bytes")
        policy = msgspec.json.decode(path.read_bytes(), type=_Policy)
    except OSError as exc:
        _refuse(path, str(exc.strerror))
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError) as exc:
        _refuse(path, str(exc))
    scopes = policy.transports.get("docker", {})
    for scope in scopes_of(reference):
        if scope in scopes:
            return _rules(path, scope or "docker", scopes[scope])
    return _rules(path, "default", policy.default)


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


def _rules(path: Path, scope: str, requirements: list[_Requirement]) -> list[Rule]:
    if not requirements:
        _refuse(path, f"{scope}: no requirement; want at least one, such as reject")
    return [_rule(path, scope, requirement) for requirement in requirements]


def _rule(path: Path, scope: str, requirement: _Requirement) -> Rule:
    if requirement.type in (_ACCEPT, _REJECT):
        return Rule(requirement.type, scope=scope)
    if requirement.type != _SIGNED:
        _refuse(
            path,
            f"{scope}: the type {requirement.type!r} is not supported; {_ACCEPT}, {_REJECT} and {_SIGNED} are",
        )
    identity = str(requirement.signed_identity.get("type", _IDENTITIES[0]))
    if identity not in _IDENTITIES:
        _refuse(
            path, f"{scope}: the signedIdentity {identity!r} is not supported; {', '.join(_IDENTITIES)} are"
        )
    keys = []
    for name in filter(None, (requirement.key_path, *requirement.key_paths)):
        try:
            keys.append(Path(name).read_bytes())
        except OSError as exc:
            _refuse(path, f"{scope}: key {name}: {exc.strerror}")
    if requirement.key_data:
        try:
            keys.append(base64.b64decode(requirement.key_data, validate=True))
        except binascii.Error:
            _refuse(path, f"{scope}: keyData is no base64")
    if not keys:
        _refuse(path, f"{scope}: {_SIGNED} without keyPath, keyPaths or keyData")
    return Rule(_SIGNED, tuple(keys), identity, scope)


def _refuse(path: Path, why: str) -> NoReturn:
    raise FailedPreconditionError(f"signature policy {path}: {why}")
