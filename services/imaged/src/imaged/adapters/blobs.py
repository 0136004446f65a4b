"""One blob from a registry: a large one in pieces at once, where the registry answers ranges.

    first piece ─→ 206: all others beside it, each retried by itself
               └─→ 200: this answer is the whole blob, in one stream

The digest is compared over the whole. What a host does not give, the next one is asked for.
"""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import anyio
import anyio.from_thread
import anyio.to_thread
import urllib3
from anyio import CapacityLimiter
from anyio.abc import TaskGroup
from urllib3.exceptions import HTTPError

from common.errors import DataLossError, SlipwayError
from imaged import meters
from imaged.adapters.transport import MAX_TRIES
from imaged.fetching.bandwidth import Bandwidth
from imaged.fetching.interruptible import Stop, interruptible
from imaged.fetching.refusal import Refused, Told, reason
from imaged.manifest import Descriptor
from imaged.ports import Partial
from imaged.turns import Queue

PIECE_BYTES = 16 << 20
SLOW_S = 3.0
"""Waited for so long, a source's pace is known."""
_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)")


class Source(Protocol):
    """A host that has blobs. Thread-safe; its methods block."""

    least_bytes_per_s: int
    """Who gives less is left; 0 for who may take any time."""

    @property
    def stands_in(self) -> bool:
        """Whether it is not the registry itself."""

    @property
    def name(self) -> str:
        """For messages."""

    def open(
        self, method: str, path: str, headers: Mapping[str, str], stop: Stop
    ) -> urllib3.BaseHTTPResponse:
        """Ask for `blobs/<digest>`; the answer is 200, 206 or 416 and its body is not read yet.

        Raises:
            Refused: with the error for the caller.
        """

    def unavailable(self, why: str) -> SlipwayError:
        """The error of a host that failed."""


@dataclass(slots=True)
class Span:
    """A part of a blob that is still to come."""

    at: int
    end: int


class BlobFetch:
    """Brings one blob.

    Args:
        sources: the hosts, in the order in which to ask them.
        blob: what.
        partial: where to.
        image: for messages.
        limiter: of threads, as many as there are turns.
        queue: gives turns to the pull.
        order: of this blob among those of the pull.
        parallel: pieces of this blob at once.
        bandwidth: of all downloads.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        blob: Descriptor,
        partial: Partial,
        image: str,
        *,
        limiter: CapacityLimiter,
        queue: Queue,
        order: int,
        parallel: int,
        bandwidth: Bandwidth,
    ) -> None:
        self._sources = sources
        self._blob, self._partial, self._image = blob, partial, image
        self._limiter, self._parallel = limiter, parallel
        self._queue, self._order, self._bandwidth = queue, order, bandwidth
        self._left: list[Span] = []
        self._refusal: SlipwayError | None = None
        """What the host said last."""
        self._failure: SlipwayError | None = None
        """What no other host can better, such as a full disk."""

    async def run(self) -> None:
        """Bring what is missing, and verify the whole.

        Raises:
            SlipwayError: what the registry itself said, or else the last host.
        """
        told = Told()
        for source in self._sources:
            failure = await self._from(source)
            if failure is None:
                return
            told.by(failure, stands_in=source.stands_in)
        if told.error:
            raise told.error

    async def _from(self, source: Source) -> SlipwayError | None:
        """The rest of the blob from one host; None when the blob is whole, or else why it is not."""
        again = self._partial.fetched_bytes > 0
        while True:
            failure = await self._complete(source)
            if failure:
                return failure
            try:
                await anyio.to_thread.run_sync(self._partial.verify)
            except DataLossError as exc:
                if not again:
                    return _lost(source, self._image, self._blob, exc.message).error
                # bytes of an earlier try or another host may be at fault: once more from nothing
                again = False
            else:
                return None

    async def _complete(self, source: Source) -> SlipwayError | None:
        self._left = self._missing()
        if not self._left:
            return None
        self._refusal = None
        async with anyio.create_task_group() as group:
            await self._work(source, group, first=True)
        if self._failure:
            raise self._failure
        return self._refusal if self._missing() else None

    def _missing(self) -> list[Span]:
        in_pieces = self._parallel > 1 and self._partial.scattered and self._blob.size >= 2 * PIECE_BYTES
        step = PIECE_BYTES if in_pieces else self._blob.size
        return [
            Span(at, min(at + step, end))
            for start, end in self._partial.missing()
            for at in range(start, end, step or 1)
        ]

    async def _work(self, source: Source, group: TaskGroup, *, first: bool = False) -> None:
        """Bring piece after piece; a refused one is left to the others that work."""
        alone = first

        def spread() -> None:
            """The first answer has begun, and is a piece: others may work, too."""
            nonlocal alone
            alone = False
            for _ in range(min(self._parallel - 1, len(self._left))):
                group.start_soon(self._work, source, group)

        while self._left:
            async with self._queue.turn(self._order):
                if not self._left:
                    return
                span = self._left.pop(0)
                ranges = spread if alone and self._left else None
                piece = _Piece(
                    source,
                    self._blob,
                    self._partial,
                    span,
                    self._image,
                    ranges,
                    alone=alone,
                    bandwidth=self._bandwidth,
                )
                if not await self._bring(piece, span, group):
                    return
            if alone:
                self._left = self._missing()  # nothing, when it came as the whole

    async def _bring(self, piece: "_Piece", span: Span, group: TaskGroup) -> bool:
        """Whether a piece came; what is left of it goes back when others may have more luck."""
        try:
            await interruptible(piece.run, self._limiter)
        except Refused as exc:
            self._refusal = exc.error
            if exc.transient:
                self._left.insert(0, span)
            else:
                self._left.clear()
            return False
        except SlipwayError as exc:
            self._failure = exc
            group.cancel_scope.cancel()
            return False
        return True


class _Piece:
    """One piece from one host: as many requests as it takes, while each brings something. Blocks.

    Args:
        source: that host.
        ranges: called on the event loop when the host answers a range; others may come beside then.
        alone: no other piece is under way, so that the host may answer with the whole.
    """

    def __init__(
        self,
        source: Source,
        blob: Descriptor,
        partial: Partial,
        span: Span,
        image: str,
        ranges: Callable[[], None] | None,
        *,
        alone: bool,
        bandwidth: Bandwidth,
    ) -> None:
        self._source, self._blob, self._partial = source, blob, partial
        self._span, self._image = span, image
        self._ranges, self._alone, self._bandwidth = ranges, alone, bandwidth

    def run(self, stop: Stop) -> None:
        """Bring it.

        Raises:
            Refused: the host does not give it.
        """
        tries, best = 0, self._span.at
        while self._span.at < self._span.end:
            before = self._span.at
            try:
                self._request(stop)
                why = "cut the connection"
            except (HTTPError, OSError) as exc:
                why = reason(exc)
            finally:
                stop.detach()
            # against the best so far: a host that starts over each time makes no progress
            tries = 0 if self._span.at > best else tries + 1
            best = max(best, self._span.at)
            if tries >= MAX_TRIES or stop.is_set():
                error = self._source.unavailable(f"{why} at byte {before} of {self._blob.digest}")
                raise Refused(error, transient=True)
            if tries:
                stop.wait(0.1 * 3**tries)

    def _request(self, stop: Stop) -> None:
        span, size = self._span, self._blob.size
        headers = {}
        if (span.at, span.end) != (0, size):
            headers["Range"] = f"bytes={span.at}-{span.end - 1 if span.end < size else ''}"
        response = self._source.open("GET", f"blobs/{self._blob.digest}", headers, stop)
        stop.attach(response)
        done = False
        try:
            self._place(response)
            if response.status != 416:
                self._copy(response, stop)
                done = span.at == span.end
        finally:
            if done:
                response.release_conn()
            else:
                response.close()

    def _place(self, response: urllib3.BaseHTTPResponse) -> None:
        """Make sure that the body is what is missing, or take it as the whole."""
        span, size = self._span, self._blob.size
        if response.status == 206:
            found = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
            last = span.end - 1
            if (
                not found
                or (int(found[1]), int(found[2])) != (span.at, last)
                or found[3] not in (str(size), "*")
            ):
                self._begin_anew("answered with another range than asked for")
                raise HTTPError("answered with another range than asked for")
            if self._ranges:
                anyio.from_thread.run_sync(self._ranges)
                self._ranges, self._alone = None, False
            return
        if (span.at, span.end) != (0, size):
            self._begin_anew("does not answer ranges")
        length = response.headers.get("Content-Length", "")
        if response.status == 200 and length.isdigit() and int(length) != size:
            raise _lost(
                self._source, self._image, self._blob,
                f"{length} bytes are offered, the manifest says {size}",
            )  # fmt: skip

    def _begin_anew(self, why: str) -> None:
        """From nothing, in one stream; not beside others."""
        if not self._alone:
            raise HTTPError(why)
        self._partial.restart()
        self._span.at, self._span.end = 0, self._blob.size

    def _copy(self, response: urllib3.BaseHTTPResponse, stop: Stop) -> None:
        span, least, waited_s, came = self._span, self._source.least_bytes_per_s, 0.0, 0
        while not stop.is_set():
            start_s = time.monotonic()
            # what is held to a pace is read as it comes
            read = response.read1 if least else response.read
            chunk = read(self._bandwidth.chunk_bytes, decode_content=False)
            waited_s += time.monotonic() - start_s
            if not chunk:
                return
            came += len(chunk)
            if waited_s > SLOW_S and came < least * waited_s:
                raise Refused(self._source.unavailable(f"gives less than {least} bytes per second"))
            if least:
                meters.PEER_FETCHED.inc(len(chunk))
            if span.at + len(chunk) > span.end and span.end < self._blob.size:
                raise HTTPError("sent more than it was asked for")
            try:
                self._partial.write(chunk, span.at)
            except DataLossError as exc:
                raise _lost(self._source, self._image, self._blob, exc.message) from exc
            span.at += len(chunk)
            self._bandwidth.spend(len(chunk), stop)


def _lost(source: Source, image: str, blob: Descriptor, why: str) -> Refused:
    return Refused(DataLossError(f"image {image}: {source.name}: {blob.digest}: {why}"))
