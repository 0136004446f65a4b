"""Signatures of images (cosign's simple signing): found beside the image, verified with keys that are here.

A signature is a layer of the image `sha256-<hex>.sig` in the same repository: its blob is the payload, which names
the digest; an annotation has the signature of the payload's bytes.
"""

import base64
import binascii
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import anyio
import anyio.to_thread
import msgspec

from common.digest import Digest
from common.errors import InvalidArgumentError, NotFoundError, UnknownError
from imaged.leases import Leases
from imaged.manifest import Descriptor
from imaged.ports import Content, Repository
from imaged.reference import Reference
from imaged.trust import Rule, rules_for

PREFIX = "SignatureValidationFailed: "
"""What a kubelet reads (k8s.io/kubernetes/pkg/kubelet/images)."""
PAYLOAD_TYPE = "application/vnd.dev.cosign.simplesigning.v1+json"
ANNOTATION = "dev.cosignproject.cosign/signature"
MAX_PAYLOAD_BYTES = 1 << 20
MAX_SIGNATURES = 50
_KIND = "cosign container image signature"


class Verifier(Protocol):
    """Checks a signature."""

    def __call__(self, key: bytes, signature: bytes, payload: bytes) -> bool:
        """Whether a key in PEM made it. Blocking.

        Raises:
            FailedPreconditionError: it is no public key.
        """


class _Layer(Descriptor, frozen=True):
    annotations: dict[str, str] | None = None


class _Signatures(msgspec.Struct, frozen=True):
    layers: list[_Layer] = []


class Trust:
    """Holds images to a policy.

    Args:
        policy: its file.
        verify: checks a signature.
        content: where payloads come to.
        leases: let them go again.
    """

    def __init__(self, policy: str, verify: Verifier, content: Content, leases: Leases) -> None:
        self._policy, self._verify, self._content, self._leases = policy, verify, content, leases

    async def check(self, reference: Reference, repository: Repository, digests: Sequence[Digest]) -> None:
        """Let an image pass, before anything of it is unpacked.

        Args:
            reference: what is pulled.
            repository: where its signatures are.
            digests: of its documents, of which one must be signed.

        Raises:
            UnknownError: the policy does not let it pass; with the prefix that a kubelet reads.
            FailedPreconditionError: the policy or a key is malformed.
            SlipwayError: the registry failed.
        """
        rules = await anyio.to_thread.run_sync(rules_for, Path(self._policy), reference)
        found: list[tuple[bytes, bytes, Digest]] | None = None
        for rule in rules:
            if rule.accepts_all:
                continue
            if rule.rejects_all:
                self._refuse(reference, f"the policy rejects {rule.scope}")
            if found is None:
                found = [entry for digest in digests for entry in await self._signatures(repository, digest)]
            if not found:
                self._refuse(reference, f"it has no signature, which the policy wants of {rule.scope}")
            if not await anyio.to_thread.run_sync(self._is_signed, rule, reference, found):
                self._refuse(
                    reference, f"none of its {len(found)} signatures is what the policy wants of {rule.scope}"
                )

    def _is_signed(self, rule: Rule, reference: Reference, found: list[tuple[bytes, bytes, Digest]]) -> bool:
        return any(
            _names(payload, digest, reference, rule.identity)
            and any(self._verify(key, signature, payload) for key in rule.keys)
            for signature, payload, digest in found
        )

    async def _signatures(self, repository: Repository, digest: Digest) -> list[tuple[bytes, bytes, Digest]]:
        """Signatures beside an image, with their payloads; what is malformed is no signature."""
        try:
            document = await repository.document(f"{digest.algorithm}-{digest.hex}.sig")
        except NotFoundError:
            return []
        try:
            layers = msgspec.json.decode(document.body, type=_Signatures).layers
        except (msgspec.DecodeError, msgspec.ValidationError):
            return []
        found = []
        for layer in layers[:MAX_SIGNATURES]:
            text = (layer.annotations or {}).get(ANNOTATION, "")
            if layer.media_type != PAYLOAD_TYPE or not text or not 0 < layer.size <= MAX_PAYLOAD_BYTES:
                continue
            try:
                signature = base64.b64decode(text, validate=True)
                payload = await self._payload(repository, Descriptor(layer.digest, layer.size))
            except (binascii.Error, InvalidArgumentError):
                continue
            found.append((signature, payload, digest))
        return found

    async def _payload(self, repository: Repository, blob: Descriptor) -> bytes:
        Digest.parse(blob.digest)
        try:
            with self._leases.hold() as needs:
                needs.digests.add(blob.digest)
                async with self._content.ingest(blob) as ingest:
                    if not ingest.committed:
                        await repository.fetch(blob, ingest.partial)
                        await ingest.commit()
                return await self._content.read(blob.digest)
        finally:
            with anyio.CancelScope(shield=True):
                await self._leases.collect({blob.digest}, set())

    def _refuse(self, reference: Reference, why: str) -> None:
        raise UnknownError(f"{PREFIX}image {reference}: {why} ({self._policy})")


def _names(payload: bytes, digest: Digest, reference: Reference, identity: str) -> bool:
    """Whether a payload is about this digest and this name."""
    try:
        critical: Any = msgspec.json.decode(payload)["critical"]
        name = Reference.parse(str(critical["identity"]["docker-reference"]))
        said = (critical["type"], critical["image"]["docker-manifest-digest"])
    except (msgspec.DecodeError, UnicodeDecodeError, LookupError, TypeError, InvalidArgumentError):
        return False
    if said != (_KIND, str(digest)) or name.repository != reference.repository:
        return False
    if identity == "matchRepository" or (identity == "matchRepoDigestOrExact" and reference.digest):
        return True
    return str(name) == str(reference)
