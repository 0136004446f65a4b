"""Logging in to registries: Basic, and Bearer tokens (distribution spec, "Token Authentication").

Credentials go to the registry that they are for and to the token service that it names, nowhere else;
they are in no log, no error and no repr.
"""

import base64
import hashlib
import json
import re
import threading
import time
from dataclasses import dataclass, field
from urllib.parse import SplitResult, urlencode, urlsplit

import urllib3

from common.errors import PermissionDeniedError
from imaged.adapters.proxies import Pools
from imaged.ports import Credentials

MAX_TOKEN_BYTES = 1 << 20
MAX_CACHED = 1024
MAX_CHALLENGE_CHARACTERS = 4096
"""Of a WWW-Authenticate header that are read."""
DEFAULT_LIFE_S = 60
"""A token without expires_in lives for 60 s (distribution spec)."""
MARGIN_S = 10
BASIC = ("basic",)
_CHALLENGE = re.compile(r"(?:^|,)\s*(Basic|Bearer)(?:\s+|$)", re.IGNORECASE)
_PARAMETER = re.compile(r'(?<![a-zA-Z_])([a-zA-Z_]++)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')


@dataclass(frozen=True, slots=True)
class Challenge:
    """One WWW-Authenticate challenge."""

    scheme: str
    realm: str = ""
    service: str = ""
    scope: str = ""


@dataclass(slots=True)
class TokenCache:
    """Tokens by token service, scope and credentials, until shortly before they expire."""

    _tokens: dict[tuple[str, ...], tuple[str, float]] = field(default_factory=dict, repr=False)
    _ways: dict[tuple[str, ...], tuple[str, ...]] = field(default_factory=dict, repr=False)
    """By host, scope and credentials: the token that was used last, or BASIC."""
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def way(self, place: tuple[str, ...]) -> tuple[str, ...]:
        """How a place was logged in to last; empty when it was not."""
        with self._lock:
            return self._ways.get(place, ())

    def note(self, place: tuple[str, ...], way: tuple[str, ...]) -> None:
        """Remember how a place wants to be logged in to."""
        with self._lock:
            if len(self._ways) >= MAX_CACHED:
                self._ways.clear()
            self._ways[place] = way

    def get(self, key: tuple[str, ...]) -> str:
        with self._lock:
            token, until = self._tokens.get(key, ("", 0.0))
        return token if time.monotonic() < until else ""

    def put(self, key: tuple[str, ...], token: str, life_s: float) -> None:
        with self._lock:
            if len(self._tokens) >= MAX_CACHED:
                self._tokens.clear()
            self._tokens[key] = (token, time.monotonic() + life_s - MARGIN_S)

    def drop(self, key: tuple[str, ...]) -> None:
        with self._lock:
            self._tokens.pop(key, None)


def parse_challenges(headers: list[str]) -> list[Challenge]:
    """The challenges of all WWW-Authenticate headers that we can answer."""
    found = []
    for whole in headers:
        header = whole[:MAX_CHALLENGE_CHARACTERS]
        marks = list(_CHALLENGE.finditer(header))
        for n, mark in enumerate(marks):
            end = marks[n + 1].start() if n + 1 < len(marks) else len(header)
            values = {k.lower(): q or p for k, q, p in _PARAMETER.findall(header[mark.end() : end])}
            known = {k: v for k, v in values.items() if k in ("realm", "service", "scope")}
            found.append(Challenge(mark[1].lower(), **known))
    return found


def _service(realm: str) -> SplitResult | None:
    try:
        parts = urlsplit(realm)
    except ValueError:
        return None
    return parts if parts.scheme in ("http", "https") and parts.netloc else None


def fingerprint(credentials: Credentials) -> str:
    """A name for credentials that does not tell them."""
    parts = (credentials.username, credentials.password, credentials.identity_token)
    text = json.dumps([*parts, credentials.registry_token, credentials.server])
    return hashlib.sha256(text.encode()).hexdigest()


def basic(credentials: Credentials) -> str:
    pair = f"{credentials.username}:{credentials.password}"
    return "Basic " + base64.b64encode(pair.encode()).decode()


class Login:
    """The Authorization header of one host, for one repository and one pull.

    Args:
        pool: connections of that host.
        host: its name, for messages.
        secure: whether it is asked over TLS.
        scope: what to ask a token for, when the challenge does not say.
        credentials: may be empty.
        cache: tokens of earlier requests.
    """

    def __init__(
        self,
        pool: Pools,
        host: str,
        scope: str,
        credentials: Credentials,
        cache: TokenCache,
        *,
        secure: bool,
    ) -> None:
        self._pool = pool
        self._host = host
        self._secure = secure
        self._scope = scope
        self._credentials = credentials
        self._cache = cache
        self._lock = threading.Lock()
        self._place = (host, "https" if secure else "http", scope, fingerprint(credentials))
        self._used: tuple[str, ...] = ()
        self.header = f"Bearer {credentials.registry_token}" if credentials.registry_token else self._known()

    def _known(self) -> str:
        """The header that the host took last time, so that it need not be asked for one."""
        way = self._cache.way(self._place)
        if way == BASIC:
            return basic(self._credentials)
        token = self._cache.get(way) if way else ""
        self._used = way if token else ()
        return f"Bearer {token}" if token else ""

    def answer(self, refused: str, challenges: list[Challenge]) -> bool:
        """Get a new header after a 401.

        Args:
            refused: the header that was refused; when another thread has replaced it, its new one is used.
            challenges: what the registry asks for.

        Returns:
            Whether there is another header to try.

        Raises:
            PermissionDeniedError: the token service said no.
            urllib3.exceptions.HTTPError: it could not be reached.
        """
        with self._lock:
            if self.header != refused:
                return True
            for challenge in sorted(challenges, key=lambda c: c.scheme != "bearer"):
                header = self._header(challenge, again=bool(refused))
                if header and header != refused:
                    self.header = header
                    return True
            return False

    def _header(self, challenge: Challenge, *, again: bool) -> str:
        if challenge.scheme == "basic":
            if not self._credentials.username:
                return ""
            self._cache.note(self._place, BASIC)
            return basic(self._credentials)
        scope = challenge.scope or self._scope
        key = (challenge.realm, challenge.service, scope, fingerprint(self._credentials))
        if again and key == self._used:
            self._cache.drop(key)
        token = self._cache.get(key)
        if not token:
            token, life_s = self._fetch(challenge, scope)
            self._cache.put(key, token, life_s)
        self._used = key
        self._cache.note(self._place, key)
        return f"Bearer {token}"

    def _fetch(self, challenge: Challenge, scope: str) -> tuple[str, float]:
        parts = _service(challenge.realm)
        if parts is None:
            raise PermissionDeniedError(
                f"registry {self._host}: its token service {challenge.realm!r} is no URL"
            )
        if self._secure and parts.scheme == "http" and self._credentials:
            raise PermissionDeniedError(
                f"registry {self._host}: its token service {parts.netloc} wants credentials without TLS"
            )
        response = self._ask(challenge, scope)
        try:
            body = response.read(MAX_TOKEN_BYTES)
        finally:
            response.release_conn()
        if response.status >= 500 or response.status == 429:
            raise urllib3.exceptions.HTTPError(f"token service {parts.netloc} answered {response.status}")
        if response.status != 200:
            raise PermissionDeniedError(
                f"registry {self._host}: authentication required or denied: "
                f"token service {parts.netloc} answered {response.status}"
            )
        try:
            answer = json.loads(body)
            token = str(answer.get("token") or answer.get("access_token") or "")
            life_s = float(answer.get("expires_in") or DEFAULT_LIFE_S)
        except (ValueError, OverflowError, RecursionError, AttributeError, TypeError) as exc:
            raise PermissionDeniedError(
                f"registry {self._host}: token service {parts.netloc} sent no token"
            ) from exc
        if not token or not (token.isascii() and token.isprintable()):
            raise PermissionDeniedError(f"registry {self._host}: token service {parts.netloc} sent no token")
        return token, max(life_s, DEFAULT_LIFE_S)

    def _ask(self, challenge: Challenge, scope: str) -> urllib3.BaseHTTPResponse:
        fields = {"service": challenge.service, "scope": scope}
        if self._credentials.identity_token:
            fields |= {"grant_type": "refresh_token", "client_id": "slipway"}
            fields["refresh_token"] = self._credentials.identity_token
            return self._pool.request(
                "POST",
                challenge.realm,
                body=urlencode(fields),
                headers={"Content-Type": "application/x-www-form-urlencoded"},
                preload_content=False,
                redirect=False,
                retries=False,
            )
        join = "&" if urlsplit(challenge.realm).query else "?"
        pairs = [("service", challenge.service), *(("scope", part) for part in scope.split())]
        query = urlencode([(name, value) for name, value in pairs if value])
        headers = {"Authorization": basic(self._credentials)} if self._credentials.username else {}
        return self._pool.request(
            "GET", f"{challenge.realm}{join}{query}", headers=headers,
            preload_content=False, redirect=False, retries=False,
        )  # fmt: skip
