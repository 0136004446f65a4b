"""Signatures of images as documents: cosign's simple signing, and sigstore bundles of version 0.3. Pure.

Each becomes a `Signature`: bytes that a key may have made of other bytes, which name a digest. What is malformed, or
says something else than "this image", is no signature. Certificates and logs in a bundle are not looked at.
"""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from common.errors import InvalidArgumentError
from imaged.manifest import MALFORMED, Descriptor
from imaged.reference import Reference

PAYLOAD_TYPE = "application/vnd.dev.cosign.simplesigning.v1+json"
ANNOTATION = "dev.cosignproject.cosign/signature"
BUNDLE_TYPES = (
    "application/vnd.dev.sigstore.bundle.v0.3+json",
    "application/vnd.dev.sigstore.bundle+json;version=0.3",
)
"""Of sigstore's protobuf-specs, sigstore_bundle.proto."""
MAX_SIGNATURE_BYTES = 1 << 20
_KIND = "cosign container image signature"
_STATEMENT = "application/vnd.in-toto+json"
_STATEMENT_TYPES = ("https://in-toto.io/Statement/v1", "https://in-toto.io/Statement/v0.1")
_SIGN = "https://sigstore.dev/cosign/sign/v1"
"""Of the predicate of `cosign sign`. Attestations have others, and may well say that an image is bad."""
_HASHES = {"SHA2_256": "sha256", "SHA2_384": "sha384", "SHA2_512": "sha512"}


@dataclass(frozen=True, slots=True)
class Signature:
    """A signature and what it says; nobody has verified it yet."""

    value: bytes
    payload: bytes
    """The bytes that are signed."""
    digest: str
    """Of the document that it is about."""
    name: str = ""
    """The image that it is about; empty when it names none."""

    def fits(self, reference: Reference, identity: str) -> bool:
        """Whether it is about an image of this name, as closely as a policy's signedIdentity wants."""
        if not self.name:
            return not identity
        try:
            name = Reference.parse(self.name)
        except InvalidArgumentError:
            return False
        if name.repository != reference.repository:
            return False
        if identity in ("", "matchRepository"):
            return True
        return (identity == "matchRepoDigestOrExact" and bool(reference.digest)) or str(name) == str(
            reference
        )


class _Layer(Descriptor, frozen=True):
    annotations: dict[str, str] | None = None


class _Document(msgspec.Struct, frozen=True):
    layers: list[_Layer] = []


class _Digest(msgspec.Struct, frozen=True):
    algorithm: str
    digest: bytes


class _Message(msgspec.Struct, frozen=True, rename="camel"):
    message_digest: _Digest
    signature: bytes


class _DsseSignature(msgspec.Struct, frozen=True):
    sig: bytes


class _Envelope(msgspec.Struct, frozen=True, rename="camel"):
    payload: bytes
    payload_type: str
    signatures: list[_DsseSignature]


class _Bundle(msgspec.Struct, frozen=True, rename="camel"):
    media_type: str
    message_signature: _Message | None = None
    dsse_envelope: _Envelope | None = None


class _Subject(msgspec.Struct, frozen=True):
    digest: dict[str, str]
    name: str = ""


class _Statement(msgspec.Struct, frozen=True, rename="camel"):
    type: str = msgspec.field(name="_type")
    predicate_type: str
    subject: list[_Subject]


def carried(document: bytes) -> list[tuple[Descriptor, bytes]]:
    """The blobs of signatures that a manifest has, each with the signature beside it; empty for a bundle's."""
    try:
        layers = msgspec.json.decode(document, type=_Document).layers
    except MALFORMED:
        return []
    found = []
    for layer in layers:
        if not 0 < layer.size <= MAX_SIGNATURE_BYTES:
            continue
        if layer.media_type in BUNDLE_TYPES:
            found.append((Descriptor(layer.digest, layer.size), b""))
        text = (layer.annotations or {}).get(ANNOTATION, "")
        if layer.media_type == PAYLOAD_TYPE and text:
            try:
                found.append((Descriptor(layer.digest, layer.size), base64.b64decode(text, validate=True)))
            except (binascii.Error, ValueError):
                continue
    return found


def signatures(blob: bytes, value: bytes, documents: Mapping[str, bytes]) -> list[Signature]:
    """What a blob of `carried` says.

    Args:
        blob: its bytes.
        value: the signature beside it.
        documents: the image's, by digest: what a signature over a document itself is verified with.
    """
    if value:
        return _simple(blob, value)
    try:
        bundle = msgspec.json.decode(blob, type=_Bundle)
        if bundle.media_type not in BUNDLE_TYPES or (bundle.message_signature is None) == (
            bundle.dsse_envelope is None
        ):
            return []
        if bundle.message_signature:
            return _message(bundle.message_signature, documents)
        return _statement(bundle.dsse_envelope) if bundle.dsse_envelope else []
    except MALFORMED:
        return []


def _simple(payload: bytes, value: bytes) -> list[Signature]:
    try:
        critical: Any = msgspec.json.decode(payload)["critical"]
        name = str(critical["identity"]["docker-reference"])
        digest = str(critical["image"]["docker-manifest-digest"])
        kind = critical["type"]
    except (*MALFORMED, LookupError, TypeError):
        return []
    return [Signature(value, payload, digest, name)] if name and kind == _KIND else []


def _message(message: _Message, documents: Mapping[str, bytes]) -> list[Signature]:
    """A signature over the bytes of a document."""
    algorithm = _HASHES.get(message.message_digest.algorithm, "")
    digest = f"{algorithm}:{message.message_digest.digest.hex()}"
    return [Signature(message.signature, documents[digest], digest)] if digest in documents else []


def _statement(envelope: _Envelope) -> list[Signature]:
    """A statement of in-toto in an envelope (DSSE), by `cosign sign`."""
    if envelope.payload_type != _STATEMENT or len(envelope.signatures) != 1:
        return []
    statement = msgspec.json.decode(envelope.payload, type=_Statement)
    if statement.type not in _STATEMENT_TYPES or statement.predicate_type != _SIGN:
        return []
    kind = envelope.payload_type.encode()
    # the pre-authentication encoding (DSSE, protocol.md)
    signed = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(envelope.payload), envelope.payload)
    return [
        Signature(envelope.signatures[0].sig, signed, f"{algorithm}:{value}", subject.name)
        for subject in statement.subject
        for algorithm, value in subject.digest.items()
    ]
