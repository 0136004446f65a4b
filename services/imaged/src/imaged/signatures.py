"""Holds images to a policy: finds their signatures, in the repository or the archive, and verifies them with keys that are here.

In a repository, cosign's simple signing is the image `sha256-<hex>.sig`; sigstore bundles refer to the image.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import anyio
import anyio.to_thread

from common.digest import Digest
from common.errors import InvalidArgumentError, NotFoundError, UnknownError
from imaged.leases import Leases
from imaged.manifest import Descriptor
from imaged.ports import Content, Repository
from imaged.reference import Reference
from imaged.signed import BUNDLE_TYPES, Signature, carried, signatures
from imaged.trust import Rule, Verifier, read

PREFIX = "SignatureValidationFailed: "
"""What a kubelet reads (k8s.io/kubernetes/pkg/kubelet/images)."""
MAX_SIGNATURES = 50
"""That are looked at, of each form and document."""


class Trust:
    """Holds images to a policy, which is read anew each time.

    Args:
        policy: its file.
        verify: checks a signature.
        content: where payloads come to.
        leases: let them go again.
    """

    def __init__(self, policy: str, verify: Verifier, content: Content, leases: Leases) -> None:
        self._policy, self._verify, self._content, self._leases = Path(policy), verify, content, leases

    async def check(self, reference: Reference, repository: Repository, digests: Sequence[Digest]) -> None:
        """Let an image of a registry pass, before anything of it is unpacked.

        Args:
            reference: what is pulled.
            repository: where its signatures are.
            digests: of its documents, of which one must be signed.

        Raises:
            UnknownError: the policy does not let it pass; with the prefix that a kubelet reads.
            FailedPreconditionError: the policy or a key is malformed.
            SlipwayError: the registry failed.
        """
        policy = await anyio.to_thread.run_sync(read, self._policy, self._verify)
        known = {str(digest) for digest in digests}

        async def find() -> list[Signature]:
            return [each for digest in digests for each in await self._beside(repository, digest)]

        await self._hold(str(reference), policy.of_image(reference), [reference], known, find)

    async def check_archived(
        self,
        form: str,
        names: Sequence[str],
        documents: Mapping[str, bytes],
        found: Sequence[tuple[bytes, bytes]],
    ) -> None:
        """Let an image of an archive pass, before anything of it is kept.

        Args:
            form: of the archive: docker-archive or oci-archive.
            names: that it gets.
            documents: its own, of which one must be signed.
            found: the signatures of the archive, as `imaged.signed.signatures` takes them.

        Raises:
            UnknownError, FailedPreconditionError: as for `check`.
        """
        policy = await anyio.to_thread.run_sync(read, self._policy, self._verify)
        references = [Reference.parse(name) for name in names]

        async def find() -> list[Signature]:
            return [each for blob, value in found for each in signatures(blob, value, documents)]

        rules = policy.of_archive(form)
        what = ", ".join(names) or f"{next(iter(documents), '')} of the archive"
        if rules is not None or not references:
            wanted = policy.default if rules is None else rules
            await self._hold(what, wanted, references, set(documents), find)
            return
        for reference in references:
            await self._hold(str(reference), policy.of_image(reference), [reference], set(documents), find)

    async def _hold(
        self,
        what: str,
        rules: Sequence[Rule],
        names: Sequence[Reference],
        digests: set[str],
        find: Callable[[], Awaitable[list[Signature]]],
    ) -> None:
        found: list[Signature] | None = None
        for rule in rules:
            if rule.accepts_all:
                continue
            if rule.rejects_all:
                self._refuse(what, f"the policy rejects {rule.scope}")
            if found is None:
                found = await find()
            if not found:
                self._refuse(what, f"it has no signature, which the policy wants of {rule.scope}")
            fitting = [s for s in found if s.digest in digests and _fits(s, names, rule.identity)]
            if not await anyio.to_thread.run_sync(self._is_signed, rule, fitting):
                self._refuse(
                    what, f"none of its {len(found)} signatures is what the policy wants of {rule.scope}"
                )

    def _is_signed(self, rule: Rule, found: Sequence[Signature]) -> bool:
        return any(self._verify(key, s.value, s.payload) for s in found for key in rule.keys)

    async def _beside(self, repository: Repository, digest: Digest) -> list[Signature]:
        """Signatures beside a document; what is malformed is no signature."""
        blobs = await self._carried(repository, f"{digest.algorithm}-{digest.hex}.sig")
        bundles: list[tuple[Descriptor, bytes]] = []
        for referrer in (await repository.referrers(digest, BUNDLE_TYPES))[:MAX_SIGNATURES]:
            bundles += await self._carried(repository, referrer.digest)
        documents = {str(digest): await self._document(repository, digest)} if bundles else {}
        found = []
        for blob, value in (*blobs[:MAX_SIGNATURES], *bundles[:MAX_SIGNATURES]):
            try:
                body = await self._blob(repository, blob)
            except InvalidArgumentError:
                continue
            found += signatures(body, value, documents)
        return found

    async def _carried(self, repository: Repository, name: str) -> list[tuple[Descriptor, bytes]]:
        try:
            return carried((await repository.document(name)).body)
        except NotFoundError:
            return []

    async def _document(self, repository: Repository, digest: Digest) -> bytes:
        if self._content.has(str(digest)):
            return await self._content.read(str(digest))
        return (await repository.document(str(digest))).body

    async def _blob(self, repository: Repository, blob: Descriptor) -> bytes:
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
            await self._leases.collect({blob.digest}, set())

    def _refuse(self, what: str, why: str) -> None:
        raise UnknownError(f"{PREFIX}image {what}: {why} ({self._policy})")


def _fits(signature: Signature, names: Sequence[Reference], identity: str) -> bool:
    return all(signature.fits(name, identity) for name in names) if names else not identity
