"""Signature policies as they are read: which rule an image is under, what is not understood, and what is no key."""

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from common.errors import FailedPreconditionError
from imaged.adapters.keys import verify
from imaged.reference import Reference
from imaged.trust import Rule, read, scopes_of
from services.imaged.tests.signing import OTHER, RULE, pem


def rules_for(policy: Path, reference: Reference) -> tuple[Rule, ...]:
    return read(policy, verify).of_image(reference)


def test_the_narrowest_scope_counts(tmp_path: Path) -> None:
    reference = Reference.parse("reg.example:5000/team/app:1")
    assert scopes_of(reference) == [
        "reg.example:5000/team/app:1",
        "reg.example:5000/team/app",
        "reg.example:5000/team",
        "reg.example:5000",
        "*.example",
        "",
    ]
    policy = tmp_path / "policy.json"
    accept, reject = [{"type": "insecureAcceptAnything"}], [{"type": "reject"}]
    scopes = {"reg.example:5000/team": accept, "*.example": reject, "": reject}
    policy.write_text(json.dumps({"default": reject, "transports": {"docker": scopes}}))
    assert rules_for(policy, reference)[0].accepts_all
    assert rules_for(policy, Reference.parse("reg.example:5000/teams/app"))[0].scope == "*.example"
    assert rules_for(policy, Reference.parse("busybox"))[0].scope == "docker"


@pytest.mark.parametrize("curve", [ec.SECP384R1(), ec.SECP521R1()])
@pytest.mark.parametrize("algorithm", [hashes.SHA256(), hashes.SHA384(), hashes.SHA512()])
def test_a_larger_curve_may_use_its_own_hash_or_cosigns(
    curve: ec.EllipticCurve, algorithm: hashes.HashAlgorithm
) -> None:
    private = ec.generate_private_key(curve)
    good = algorithm.name in ("sha256", {384: "sha384", 521: "sha512"}[curve.key_size])
    assert verify(pem(private), private.sign(b"x", ec.ECDSA(algorithm)), b"x") is good


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ({}, "default: []: want at least one requirement"),
        ({"default": [{"type": "signedBy"}]}, 'default[0].type: "signedBy": insecureAcceptAnything'),
        ({"default": [{"type": "reject", "why": 1}]}, 'default[0]."why": 1: not supported'),
        ({"default": [{"type": "sigstoreSigned"}]}, "sigstoreSigned wants keyPath"),
        ({"default": [RULE | {"keyPath": "/absent"}]}, 'default[0].keyPath: "/absent": No such file'),
        ({"default": [RULE | {"keyPaths": [7]}]}, "default[0].keyPaths[0]: 7: want a string"),
        ({"default": [RULE | {"keyData": "%"}]}, 'default[0].keyData: "%": it is no base64'),
        ({"default": [RULE | {"keyData": "eA=="}]}, 'default[0].keyData: "eA==": it is no public key in PEM'),
        ({"default": [RULE | {"fulcio": {"oidcIssuer": "x"}}]}, 'default[0]."fulcio": {"oidcIssuer": "x"}: not'),
        ({"default": [RULE | {"rekorPublicKeyPath": "x"}]}, 'default[0]."rekorPublicKeyPath": "x": not supported'),
        (
            {"default": [RULE | {"signedIdentity": {"type": "remapIdentity"}}]},
            'default[0].signedIdentity.type: "remapIdentity": matchRepository',
        ),
        (
            {"default": [RULE | {"signedIdentity": {"type": "matchExact", "prefix": "p"}}]},
            'default[0].signedIdentity."prefix": "p": not supported',
        ),
        ({"default": [{"type": "reject"}], "transport": {}}, "transport: {}: not supported; default, transports"),
        (
            {"default": [{"type": "reject"}], "transports": {"dockers": {}}},
            'transports."dockers": {}: not supported; docker,',
        ),
        (
            {"default": [{"type": "reject"}], "transports": {"docker": {"reg.example/a": []}}},
            'transports.docker."reg.example/a": []: want at least one',
        ),
        (
            {"default": [{"type": "reject"}], "transports": {"oci-archive": {"/srv": [RULE]}}},
            'transports.oci-archive."/srv": [{"type": "sigstoreSigned", "keyPath":',
        ),
    ],
)  # fmt: skip
def test_what_a_policy_has_that_is_not_understood_is_named_with_file_key_and_value(
    tmp_path: Path, document: dict[str, object], told: str
) -> None:
    (tmp_path / "key.pub").write_bytes(pem(OTHER))
    policy = tmp_path / "policy.json"
    policy.write_text(json.dumps(document).replace("KEY", str(tmp_path / "key.pub")))
    with pytest.raises(FailedPreconditionError) as caught:
        read(policy, verify)
    assert caught.value.message.startswith(f"signature policy {policy}: ")
    assert told in caught.value.message


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"default": [], "default": []}', "[" * 100_000, '{"default": "\\ud800"}', "\xff"]
)
def test_a_policy_that_is_no_policy_is_refused(tmp_path: Path, text: str) -> None:
    policy = tmp_path / "policy.json"
    policy.write_bytes(text.encode("latin-1"))
    with pytest.raises(FailedPreconditionError, match=r"policy\.json"):
        read(policy, verify)
    with pytest.raises(FailedPreconditionError, match="No such file"):
        read(tmp_path / "absent", verify)


def test_transports_of_other_programs_are_passed_over(tmp_path: Path) -> None:
    """Debian's and Fedora's own policy has one."""
    policy = tmp_path / "policy.json"
    accept = [{"type": "insecureAcceptAnything"}]
    policy.write_text(json.dumps({"default": accept, "transports": {"docker-daemon": {"": accept}}}))
    assert rules_for(policy, Reference.parse("busybox"))[0].accepts_all


def test_what_is_no_key_is_refused() -> None:
    with pytest.raises(FailedPreconditionError, match="PEM"):
        verify(b"not a key", b"", b"")
