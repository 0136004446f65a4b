"""Registries by the OCI distribution spec: what to ask, in which order, and what to believe."""

import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar
from weakref import WeakValueDictionary

import anyio.to_thread
import urllib3
from anyio import CapacityLimiter
from urllib3.exceptions import HTTPError

from common.digest import Digest
from common.dockerconfig import find_login
from common.errors import (
    DataLossError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    UnavailableError,
    UnknownError,
)
from imaged import hosts
from imaged.adapters.blobs import BlobFetch
from imaged.adapters.proxies import Proxies
from imaged.adapters.ranges import read_range
from imaged.adapters.referrers import by_api, listed
from imaged.adapters.registry_auth import TokenCache
from imaged.adapters.transport import Away, Limits, Transport, meant_for
from imaged.adapters.upload import Upload, mount, there
from imaged.fetching.bandwidth import Bandwidth
from imaged.fetching.interruptible import Stop, interruptible
from imaged.fetching.refusal import Refused, Told, reason
from imaged.manifest import INDEX_TYPES, MANIFEST_TYPES, MAX_MANIFEST_BYTES, Descriptor
from imaged.peers.neighbours import Neighbours
from imaged.peers.source import PeerSource
from imaged.ports import Credentials, Document, Partial
from imaged.reference import Reference
from imaged.turns import Queue, Turns

_ACCEPT = ", ".join(
    (*INDEX_TYPES, *MANIFEST_TYPES, "application/vnd.docker.distribution.manifest.v1+prettyjws")
)
LEAST_PEER_BYTES = 1 << 20
"""Smaller blobs come from their registry sooner than a neighbour is found."""
_METHOD_IS_REFUSED = (405, 501)
T = TypeVar("T")


class HttpRegistry:
    """All registries; holds what outlives a pull.

    Args:
        certs_dir: where hosts.toml files are.
        max_downloads: blobs and pieces at once, over all pulls.
        limits: how patient to be.
        docker_config: docker's config.json with logins for those who bring none; empty for none.
        proxies: what requests go through.
        parallel_ranges: pieces of a large blob at once.
        bandwidth: of all downloads; None for no cap.
        neighbours: the nodes to ask for large blobs first; None for no other.
    """

    def __init__(
        self,
        certs_dir: str,
        max_downloads: int,
        limits: Limits,
        *,
        docker_config: str = "",
        proxies: Proxies | None = None,
        parallel_ranges: int = 4,
        bandwidth: Bandwidth | None = None,
        neighbours: Neighbours | None = None,
    ) -> None:
        self._certs_dir = certs_dir
        self._limits = limits
        self._docker_config = docker_config
        self._proxies = proxies or Proxies()
        self._tokens = TokenCache()
        self._schemes: dict[str, str] = {}
        self.away = Away()
        self.parallel_ranges = parallel_ranges
        self.bandwidth = bandwidth or Bandwidth()
        self.neighbours = neighbours
        self.fetches = CapacityLimiter(max_downloads)
        self.turns = Turns(max_downloads)
        self.reads = CapacityLimiter(max_downloads)
        self.pushes = CapacityLimiter(max_downloads)
        self._questions: WeakValueDictionary[str, CapacityLimiter] = WeakValueDictionary()
        self._max_questions = max_downloads
        self._looks = CapacityLimiter(max_downloads)

    @asynccontextmanager
    async def repository(
        self,
        reference: Reference,
        credentials: Credentials,
        *,
        push: bool = False,
        queue: Queue | None = None,
    ) -> AsyncIterator["HttpRepository"]:
        """One repository, for one pull; see `imaged.ports.Registry`."""

        def make() -> list[Transport]:
            try:
                return [
                    Transport(
                        host,
                        reference.path,
                        str(reference),
                        self._mine(host, reference, credentials),
                        tokens=self._tokens,
                        limits=self._limits,
                        actions="pull,push" if push else "pull",
                        proxies=self._proxies,
                        away=self.away,
                    )
                    for host in self._places(reference.domain)
                ]
            except OSError as exc:
                raise FailedPreconditionError(
                    f"image {reference}: TLS settings of its registry: {exc}"
                ) from exc

        transports = await anyio.to_thread.run_sync(make, limiter=self._looks)
        try:
            yield HttpRepository(self, reference, transports, queue or self.turns.queue())
        finally:
            for transport in transports:
                transport.close()

    async def check_login(self, domain: str, credentials: Credentials) -> bool:
        """Ask `GET /v2/` as the distribution spec says; see `imaged.ports.Registry`."""

        def ask(stop: Stop) -> bool:
            failure: Refused | None = None
            for host in self._places(domain):
                if host.mirror_of:
                    continue
                transport = Transport(
                    host, "", "", credentials, tokens=TokenCache(), limits=self._limits, proxies=self._proxies
                )
                try:
                    transport.send("GET", f"{host.url}/", {}, stop, expect=(200,)).release_conn()
                except Refused as exc:
                    failure = exc
                else:
                    return transport.logged_in
                finally:
                    transport.close()
            raise (
                failure.error if failure else FailedPreconditionError(f"registry {domain}: no host is known")
            )

        return await interruptible(ask, self.questions(domain))

    def questions(self, domain: str) -> CapacityLimiter:
        """Of threads that ask one registry: one that does not answer holds up nobody who asks another."""
        found = self._questions.get(domain)
        if found is None:
            found = self._questions[domain] = CapacityLimiter(self._max_questions)
        return found

    def queue(self, priority: int) -> Queue:
        """See `imaged.ports.Registry`."""
        return self.turns.queue(priority)

    def remember(self, domain: str, url: str) -> None:
        """Which scheme a loopback registry answered by, so that the next pull asks there only."""
        self._schemes[domain] = url

    def forget(self, domain: str) -> None:
        """The registry may have changed its scheme."""
        self._schemes.pop(domain, None)

    def _mine(self, host: hosts.Host, reference: Reference, given: Credentials) -> Credentials:
        """The credentials for one host: those that were given for it, or else what docker keeps for it. Blocks."""
        if given and meant_for(given, host):
            return given
        if not self._docker_config:
            return Credentials()
        name = reference.domain if not host.mirror_of else host.name
        login = find_login(Path(self._docker_config), name, reference.path)
        if login is None:
            return Credentials()
        return Credentials(
            login.username, login.password, login.identity_token, login.registry_token, host.name
        )

    def _places(self, domain: str) -> list[hosts.Host]:
        found = hosts.find(self._certs_dir, domain)
        known = next((host for host in found if host.url == self._schemes.get(domain)), None)
        if known is None:
            return found
        return [host for host in found if host is known or host.name != known.name]


class HttpRepository:
    """See `imaged.ports.Repository`."""

    def __init__(
        self, registry: HttpRegistry, reference: Reference, transports: list[Transport], queue: Queue
    ) -> None:
        self._registry = registry
        self._reference = reference
        self._transports = transports
        self._queue = queue
        self._image = str(reference)
        self._questions = registry.questions(reference.domain)
        self._shown = False
        """Whether the registry has answered for a manifest, with the credentials of this pull."""

    async def resolve(self) -> Digest | None:
        def ask(transport: Transport, stop: Stop) -> Digest | None:
            path = f"manifests/{self._reference.object}"
            response = transport.send(
                "HEAD", path, {"Accept": _ACCEPT}, stop, expect=(200, *_METHOD_IS_REFUSED)
            )
            response.drain_conn()
            response.release_conn()
            if response.status in _METHOD_IS_REFUSED:
                return self._document(transport, self._reference.object, stop).digest
            return self._claimed(response, transport)

        found = await self._ask("pull" if self._reference.digest else "resolve", ask)
        self._shown = True
        wanted = self._reference.digest
        if wanted and found and found != wanted:
            raise DataLossError(f"image {self._image}: its registry says it has the digest {found}")
        return found

    async def document(self, name: str) -> Document:
        found = await self._ask(
            "pull" if ":" in name else "resolve",
            lambda transport, stop: self._document(transport, name, stop),
        )
        self._shown = True
        return found

    def _document(self, transport: Transport, name: str, stop: Stop) -> Document:
        response = transport.open("GET", f"manifests/{name}", {"Accept": _ACCEPT}, stop)
        body = self._body(response, transport)
        algorithm = name.partition(":")[0] if ":" in name else "sha256"
        digest = Digest(algorithm, hashlib.new(algorithm, body, usedforsecurity=False).hexdigest())
        claimed = self._claimed(response, transport)
        expected = name if ":" in name else str(claimed or digest)
        if str(digest) != expected:
            raise Refused(
                DataLossError(
                    f"image {self._image}: registry {transport.host.name} sent a manifest "
                    f"with the digest {digest}, not {expected}"
                )
            )
        return Document(digest, response.headers.get("Content-Type", ""), body)

    async def referrers(self, digest: Digest, kinds: Sequence[str]) -> list[Descriptor]:
        try:
            return await self._ask(
                "resolve", lambda transport, stop: by_api(transport, digest, kinds, stop, self._body)
            )
        except NotFoundError:
            pass
        try:
            tagged = await self.document(f"{digest.algorithm}-{digest.hex}")
        except NotFoundError:
            return []
        return listed(tagged.body, kinds)

    async def fetch(self, descriptor: Descriptor, partial: Partial, order: int = 0) -> None:
        able = self._able("pull")
        if not able:
            raise self._none_may("pull")
        peers = await self._peers(descriptor)
        try:
            await BlobFetch(
                [*peers, *able],
                descriptor,
                partial,
                self._image,
                limiter=self._registry.fetches,
                queue=self._queue,
                order=order,
                parallel=self._registry.parallel_ranges,
                bandwidth=self._registry.bandwidth,
            ).run()
        finally:
            for peer in peers:
                peer.close()

    async def _peers(self, blob: Descriptor) -> list[PeerSource]:
        """Other nodes that have a blob, for who has shown the registry that it may read this repository."""
        neighbours = self._registry.neighbours
        if neighbours is None or not self._shown or blob.size < LEAST_PEER_BYTES:
            return []
        repository = self._reference.repository
        return [
            PeerSource(peer, neighbours.node, repository, self._image, neighbours.seals)
            for peer in await neighbours.holders(repository, blob.digest)
        ]

    async def read(self, blob: Descriptor, extent: tuple[int, int], partial: Partial) -> None:
        bandwidth = self._registry.bandwidth
        await self._ask(
            "pull",
            lambda transport, stop: read_range(transport, blob, extent, partial, bandwidth, stop),
            self._registry.reads,
        )

    async def has(self, blob: Descriptor) -> bool:
        return await self._ask("push", lambda transport, stop: there(transport, blob, stop))

    async def mount(self, blob: Descriptor, sources: Sequence[str]) -> bool:
        return await self._ask("push", lambda transport, stop: mount(transport, blob, sources, stop))

    async def push_blob(self, blob: Descriptor, path: str, told: Callable[[int], None]) -> None:
        def work(transport: Transport, stop: Stop) -> None:
            Upload(transport, blob, path, told, stop).run()

        await self._ask("push", work, self._registry.pushes)

    async def push_document(self, name: str, media_type: str, body: bytes) -> None:
        def work(transport: Transport, stop: Stop) -> None:
            headers = {"Content-Type": media_type, "Content-Length": str(len(body))}
            path = f"manifests/{name}"
            response = transport.send("PUT", path, headers, stop, expect=(200, 201), body=lambda: body)
            response.release_conn()
            claimed = self._claimed(response, transport)
            if claimed and claimed.algorithm == "sha256" and claimed.hex != hashlib.sha256(body).hexdigest():
                raise Refused(
                    DataLossError(
                        f"image {self._image}: registry {transport.host.name} stored {name} as {claimed}"
                    )
                )

        await self._ask("push", work)

    async def _ask(
        self, capability: str, fn: Callable[[Transport, Stop], T], limiter: CapacityLimiter | None = None
    ) -> T:
        """Ask each host in a thread until one answers."""
        return await interruptible(
            lambda stop: self._over_hosts(capability, fn, stop), limiter or self._questions
        )

    def _able(self, capability: str) -> list[Transport]:
        """Who may be asked, in order: who could not be reached of late is the last."""
        able = [
            transport
            for transport in self._transports
            if capability in transport.host.capabilities
            and not (capability == "push" and transport.stands_in)
        ]
        return sorted(able, key=lambda transport: self._registry.away.has(transport.host))

    def _over_hosts(self, capability: str, fn: Callable[[Transport, Stop], T], stop: Stop) -> T:
        told = Told()
        for transport in self._able(capability):
            try:
                answer = fn(transport, stop)
            except Refused as exc:
                told.by(exc.error, stands_in=transport.stands_in)
            else:
                if told.error and not transport.stands_in:
                    self._registry.remember(self._reference.domain, transport.host.url)
                    self._transports = [
                        t for t in self._transports if t is transport or t.host.name != transport.host.name
                    ]
                return answer
            if stop.is_set():
                break
        if told.error:
            if isinstance(told.error, UnknownError):
                self._registry.forget(self._reference.domain)
            raise told.error
        raise self._none_may(capability)

    def _none_may(self, capability: str) -> UnavailableError:
        return UnavailableError(f"image {self._image}: no host of {self._reference.domain} may {capability}")

    def _body(self, response: urllib3.BaseHTTPResponse, transport: Transport) -> bytes:
        try:
            body = response.read(MAX_MANIFEST_BYTES + 1, decode_content=False)
        except (HTTPError, OSError) as exc:
            response.close()
            raise Refused(transport.unavailable(reason(exc))) from exc
        if len(body) > MAX_MANIFEST_BYTES:
            response.close()
            raise InvalidArgumentError(
                f"image {self._image}: its manifest is larger than {MAX_MANIFEST_BYTES} bytes"
            )
        response.release_conn()
        return body

    def _claimed(self, response: urllib3.BaseHTTPResponse, transport: Transport) -> Digest | None:
        text = response.headers.get("Docker-Content-Digest", "")
        try:
            return Digest.parse(text) if text else None
        except InvalidArgumentError as exc:
            message = f"image {self._image}: registry {transport.host.name} sent {exc.message}"
            raise Refused(DataLossError(message)) from exc
