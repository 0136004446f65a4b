"""HTTP as registries need it: pools per host, logins, redirects, a bounded number of tries."""

import io
import json
import ssl
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import cache
from typing import IO
from urllib.parse import urljoin, urlsplit

import urllib3
from urllib3.exceptions import HTTPError

from common.errors import (
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
    SlipwayError,
    UnknownError,
)
from imaged.adapters.proxies import Pools, Proxies
from imaged.adapters.registry_auth import Login, TokenCache, parse_challenges
from imaged.fetching.interruptible import Stop
from imaged.fetching.refusal import Refused, reason
from imaged.hosts import Host, same_registry
from imaged.ports import Credentials

MAX_TRIES = 3
MAX_REDIRECTS = 5
AWAY_S = 60.0
"""So long a mirror that could not be reached is asked last."""
MAX_LOGINS = 2
UNAVAILABLE = "RegistryUnavailable: "
"""The prefix that a kubelet reads (k8s.io/kubernetes/pkg/kubelet/images)."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How patient to be; seconds."""

    connect_timeout_s: float = 30.0
    stall_timeout_s: float = 60.0
    retry_wait_s: float = 0.2
    max_retry_after_s: float = 20.0


Body = bytes | IO[bytes] | io.RawIOBase


@dataclass(frozen=True, slots=True)
class Request:
    """What to ask, as often as it takes."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: Callable[[], Body] | None
    expect: tuple[int, ...]


class Away:
    """The mirrors that could not be reached of late, over all pulls. Thread-safe."""

    def __init__(self) -> None:
        self._until_s: dict[str, float] = {}

    def note(self, host: Host) -> None:
        self._until_s[host.url] = time.monotonic() + AWAY_S

    def has(self, host: Host) -> bool:
        until_s = self._until_s.get(host.url, 0.0)
        if until_s and until_s <= time.monotonic():
            self._until_s.pop(host.url, None)
            return False
        return bool(until_s)


class Transport:
    """Requests to one host for one repository. Thread-safe; every method blocks.

    Args:
        host: where.
        repository: path of the repository.
        image: the image, for messages; empty when only a login is checked.
        credentials: of this host.
        tokens: shared by all pulls.
        limits: how patient to be.
        actions: what a token is asked for, when the registry does not say.
        proxies: what requests go through.
        away: told of a mirror that cannot be reached.
    """

    def __init__(
        self,
        host: Host,
        repository: str,
        image: str,
        credentials: Credentials,
        *,
        tokens: TokenCache,
        limits: Limits,
        actions: str = "pull",
        proxies: Proxies | None = None,
        away: Away | None = None,
    ) -> None:
        self.host = host
        self._away = away or Away()
        self._repository = repository
        self._subject = f"image {image}: " if image else ""
        self._limits = limits
        self._pool = _pools(host, limits, proxies or Proxies())
        secure = host.url.startswith("https:")
        self._login = Login(
            self._pool, host.name, f"repository:{repository}:{actions}", credentials, tokens, secure=secure
        )

    least_bytes_per_s = 0

    @property
    def stands_in(self) -> bool:
        """Whether it is a mirror."""
        return bool(self.host.mirror_of)

    @property
    def name(self) -> str:
        """For messages."""
        return f"registry {self.host.name}"

    @property
    def logged_in(self) -> bool:
        """Whether requests are sent with a login, since the host asked for one."""
        return bool(self._login.header)

    def close(self) -> None:
        self._pool.clear()

    def open(
        self, method: str, path: str, headers: Mapping[str, str], stop: Stop, *, tries: int = MAX_TRIES
    ) -> urllib3.BaseHTTPResponse:
        """Ask for `<repository>/<path>`; the answer is 200, 206 or 416 and its body is not read yet.

        Raises:
            Refused: with the error for the caller.
        """
        return self.send(method, path, headers, stop, expect=(200, 206, 416), tries=tries)

    def send(
        self,
        method: str,
        where: str,
        headers: Mapping[str, str],
        stop: Stop,
        *,
        expect: tuple[int, ...],
        body: Callable[[], Body] | None = None,
        tries: int = MAX_TRIES,
    ) -> urllib3.BaseHTTPResponse:
        """Ask, as often as it may help, until an expected status comes; the answer's body is not read yet.

        Args:
            method: of HTTP.
            where: `<path>` below the repository, or a URL that the registry gave.
            headers: to send.
            stop: ends it.
            expect: the statuses to return.
            body: gives what to send from its beginning, for each try.
            tries: how often.

        Raises:
            Refused: with the error for the caller.
        """
        request = Request(method, self._url(where), headers, body, expect)
        wait_s, failure, again = self._limits.retry_wait_s, "", True
        for attempt in range(1, tries + 1):
            pause_s = wait_s
            try:
                response = self._logged_in(request)
                if response.status in expect:
                    return response
                failure = f"answered {response.status} {response.reason or ''}".strip()
                pause_s = max(pause_s, self._retry_after(response))
                _discard(response)
                if response.status == 429 and attempt == tries:
                    error = self._refused(ResourceExhaustedError, "too many requests (429)").error
                    raise Refused(error, transient=True)
            except (HTTPError, OSError) as exc:
                failure, again = reason(exc), transient(exc)
                if self.stands_in and unreachable(exc):
                    self._away.note(self.host)  # the next host is there sooner than another try
                    again = False
                if not again:
                    break
            if attempt < tries:
                stop.wait(pause_s)
            if stop.is_set():
                break
            wait_s *= 3
        raise Refused(self.unavailable(failure), transient=again)

    def _url(self, where: str) -> str:
        if "://" in where:
            return where
        url = f"{self.host.url}/{self._repository}/{where}"
        asked_for = self.host.asked_for
        return f"{url}{'&' if '?' in where else '?'}ns={asked_for}" if asked_for else url

    def unavailable(self, why: str) -> UnknownError:
        return UnknownError(f"{UNAVAILABLE}{self._subject}registry {self.host.name} {why}")

    def _logged_in(self, request: Request) -> urllib3.BaseHTTPResponse:
        """The answer after logins and redirects; an expected one, 429 or 5xx."""
        for _ in range(MAX_LOGINS + 1):
            header = self._login.header
            response = self._redirected(request, header)
            status = response.status
            if status in request.expect or status == 429 or status >= 500:
                return response
            challenges = parse_challenges(response.headers.getlist("WWW-Authenticate"))
            told = _discard(response)
            if status == 401:
                try:
                    again = self._login.answer(header, challenges)
                except PermissionDeniedError as exc:
                    raise Refused(PermissionDeniedError(f"{self._subject}{exc.message}")) from exc
                if again:
                    continue
            if status in (401, 403):
                raise self._refused(
                    PermissionDeniedError, f"authentication required or denied ({status}){told}"
                )
            if status == 404:
                raise self._refused(NotFoundError, "does not have it (404)")
            raise self._refused(UnknownError, f"answered {status}{told}", prefix=UNAVAILABLE)
        raise self._refused(PermissionDeniedError, "authentication required or denied (401)")

    def _redirected(self, request: Request, authorization: str) -> urllib3.BaseHTTPResponse:
        # a URL that the registry gave may be another host's from the start
        url = request.url
        for _ in range(MAX_REDIRECTS + 1):
            sent = dict(request.headers)
            if self.owns(url):
                # neither our credentials nor the operator's headers are for another host
                sent |= dict(self.host.headers)
                if authorization:
                    sent["Authorization"] = authorization
            response = self._pool.request(
                request.method, url, headers=sent, body=request.body() if request.body else None,
                preload_content=False, decode_content=False, redirect=False, retries=False,
            )  # fmt: skip
            location = response.headers.get("Location")
            if response.status not in (301, 302, 303, 307, 308) or not location:
                return response
            _discard(response)
            url = self.led(url, location)
        raise self._refused(UnknownError, f"redirects more than {MAX_REDIRECTS} times", prefix=UNAVAILABLE)

    def led(self, base: str, location: str) -> str:
        """Where an answer's Location leads.

        Raises:
            Refused: to nothing that can be asked.
        """
        with suppress(ValueError):  # of brackets and ports that are none
            url = urljoin(base, location)
            if _origin(url)[0] in ("http", "https"):
                return url
        raise self._refused(UnknownError, f"leads to {location[:200]!r}", prefix=UNAVAILABLE)

    def owns(self, url: str) -> bool:
        """Whether a URL is on this host."""
        return _origin(url) == _origin(self.host.url)

    def _refused(self, cls: type[SlipwayError], why: str, prefix: str = "") -> Refused:
        return Refused(cls(f"{prefix}{self._subject}registry {self.host.name} {why}"))

    def _retry_after(self, response: urllib3.BaseHTTPResponse) -> float:
        return min(_seconds(response.headers.get("Retry-After", "")), self._limits.max_retry_after_s)


def _seconds(text: str) -> float:
    """What a Retry-After says, a number or a date (RFC 9110, 10.2.3); 0 when it is neither, or past."""
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0


def transient(exc: Exception) -> bool:
    """Whether another try may go better: not when the peer is no TLS server or has a bad certificate."""
    inner = exc.reason if isinstance(exc, urllib3.exceptions.MaxRetryError) else exc
    return not isinstance(inner, (urllib3.exceptions.SSLError, ssl.SSLError))


def unreachable(exc: Exception) -> bool:
    """Whether no connection came about: no name, no route, nobody who answers."""
    return isinstance(exc, (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError))


def _discard(response: urllib3.BaseHTTPResponse) -> str:
    """Read the little that an error carries, so that the connection can be used again; drop a long one.

    Returns:
        What the registry says of it (distribution spec, "Error Codes"), as the end of a sentence.
    """
    body = b""
    try:
        body = response.read(64 << 10)
    except (HTTPError, OSError):
        response.close()
    response.release_conn()
    try:
        text = str(json.loads(body)["errors"][0].get("message", ""))
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return ""
    plain = "".join(c for c in text if c.isprintable())[:200]
    return f": {plain}" if plain else ""


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    default = 443 if parts.scheme == "https" else 80
    return parts.scheme, f"{parts.hostname}:{parts.port or default}"


def meant_for(credentials: Credentials, host: Host) -> bool:
    """A mirror gets credentials only when they name it; the registry itself also when they name nobody."""
    wanted = credentials.server
    if "://" in wanted:
        wanted = urlsplit(wanted).netloc
    wanted = wanted.split("/")[0]
    if not wanted:
        return not host.mirror_of
    # a server of another name is the registry itself
    return same_registry(wanted, host.name) or (bool(host.serves) and same_registry(wanted, host.serves))


def _pools(host: Host, limits: Limits, proxies: Proxies) -> Pools:
    connect_s = host.connect_timeout_s or limits.connect_timeout_s
    timeout = urllib3.Timeout(connect=connect_s, read=limits.stall_timeout_s)
    # redirects lead to TLS from a plain host, too
    context = _context(host.skip_verify, host.ca, host.client) if host.url.startswith("https") else None
    return Pools(proxies, timeout, context)


def _context(skip_verify: bool, ca: tuple[str, ...], client: tuple[tuple[str, str], ...]) -> ssl.SSLContext:
    if not (skip_verify or ca or client):
        return _system_context()
    if skip_verify:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        context = ssl.create_default_context()
        for path in ca:
            context.load_verify_locations(path)
    for cert, key in client:
        context.load_cert_chain(cert, key)
    return context


@cache
def _system_context() -> ssl.SSLContext:
    """Loading the system's certificates takes some 20 ms: once for all pulls."""
    return ssl.create_default_context()
