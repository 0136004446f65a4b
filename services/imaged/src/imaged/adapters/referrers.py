"""What refers to a document (distribution spec, "Listing Referrers"): by the API, or else by the tag that stands in for it."""

from collections.abc import Callable, Sequence
from urllib.parse import quote

import msgspec
import urllib3

from common.digest import Digest
from common.errors import InvalidArgumentError, NotFoundError
from imaged.adapters.transport import Transport
from imaged.fetching.interruptible import Stop
from imaged.fetching.refusal import Refused
from imaged.manifest import INDEX_TYPES, MALFORMED, Descriptor

MAX_PAGES = 8
"""Of the API's answer; what is listed later is not seen."""
_ABSENT = (400, 404, 405, 406, 501)
"""How registries without the API answer."""


class _Entry(Descriptor, frozen=True):
    artifact_type: str = ""


class _Index(msgspec.Struct, frozen=True):
    manifests: list[_Entry] = []


def listed(body: bytes, kinds: Sequence[str]) -> list[Descriptor]:
    """The entries of an index of these artifact types; none when it is malformed."""
    try:
        entries = msgspec.json.decode(body, type=_Index).manifests
    except MALFORMED:
        return []
    return [
        Descriptor(e.digest, e.size, e.media_type)
        for e in entries
        if e.artifact_type in kinds and _is_digest(e.digest)
    ]


def by_api(
    transport: Transport,
    digest: Digest,
    kinds: Sequence[str],
    stop: Stop,
    read: Callable[[urllib3.BaseHTTPResponse, Transport], bytes],
) -> list[Descriptor]:
    """Ask one host. Blocking.

    Raises:
        Refused: with NotFoundError when it has no such API, or knows none: another host may.
    """
    where = f"referrers/{digest}?artifactType={quote(kinds[0], safe='')}"
    found: list[Descriptor] = []
    for _ in range(MAX_PAGES):
        accept = {"Accept": INDEX_TYPES[0]}
        response = transport.send("GET", where, accept, stop, expect=(200, *_ABSENT))
        body, kind = read(response, transport), response.headers.get("Content-Type", "")
        if response.status != 200 or not kind.startswith(INDEX_TYPES[0]):
            break
        found += listed(body, kinds)
        link, _, told = response.headers.get("Link", "").partition(">")
        if not link.startswith("<") or 'rel="next"' not in told:
            break
        where = transport.led(f"{transport.host.url}/", link[1:])
    if not found:
        raise Refused(NotFoundError(f"nothing refers to {digest} at {transport.host.name}"))
    return found


def _is_digest(text: str) -> bool:
    try:
        Digest.parse(text)
    except InvalidArgumentError:
        return False
    return True
