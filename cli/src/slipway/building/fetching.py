"""ADD of a URL: a file of a web server, by http or https, and the proxies of the environment. Blocking."""

import hashlib
import os
import posixpath
import urllib.error
import urllib.request
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from pathlib import Path
from urllib.parse import unquote, urlsplit

from common.errors import DataLossError, InvalidArgumentError, UnavailableError
from slipway.building.copying import Source
from slipway.files import CHUNK_BYTES, Place

STALL_S = 60.0
"""How long a server may take to answer, or to send more."""
_GIT = ("git://", "git@", "ssh://")


def is_remote(word: str) -> bool:
    """Whether a source of ADD is elsewhere."""
    return "://" in word or word.startswith(_GIT)


def name_of(url: str) -> str:
    """What a file is called in a directory.

    Raises:
        InvalidArgumentError: the URL names none, or is none of http or https.
    """
    parts = urlsplit(url)
    if url.startswith(_GIT) or parts.path.endswith(".git"):
        message = f"{url!r}: a git repository is not fetched here: clone it in a RUN"
        raise InvalidArgumentError(message)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        message = f"{url!r}: want a URL of http or https"
        raise InvalidArgumentError(message)
    name = unquote(posixpath.basename(parts.path))
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        message = f"{url!r}: it names no file"
        raise InvalidArgumentError(message)
    return name


def fetch(url: str, directory: Path, checksum: str) -> Source:
    """Fetch a file into a directory that is empty.

    Args:
        url: of http or https; redirects are followed to such.
        directory: gets it; only its owner may read it, as in BuildKit.
        checksum: `sha256:…` that it must have; empty for any.

    Raises:
        DataLossError: it has another checksum, or ended early.
        UnavailableError: the server did not give it.
    """
    name = name_of(url)
    path, whole = directory / name, hashlib.sha256()
    try:
        with (
            urllib.request.urlopen(url, timeout=STALL_S) as answer,  # noqa: S310 - name_of has looked at the scheme
            open(path, "xb", opener=lambda p, flags: os.open(p, flags, 0o600)) as file,
        ):
            while chunk := answer.read(CHUNK_BYTES):
                whole.update(chunk)
                file.write(chunk)
            expected = answer.headers.get("Content-Length", "")
            changed = answer.headers.get("Last-Modified", "")
    except urllib.error.HTTPError as exc:
        raise UnavailableError(f"{url}: the server answered {exc.code} {exc.reason}") from exc
    except (HTTPException, urllib.error.URLError, TimeoutError, ConnectionError) as exc:
        raise UnavailableError(f"{url}: {getattr(exc, 'reason', None) or exc}") from exc
    if expected.isdigit() and int(expected) != path.stat().st_size:
        raise DataLossError(f"{url}: {path.stat().st_size} of {expected} bytes came")
    if checksum and checksum != f"sha256:{whole.hexdigest()}":
        raise DataLossError(f"{url}: it has the checksum sha256:{whole.hexdigest()}, not {checksum}")
    at_s = _time(changed)
    os.utime(path, (at_s, at_s))
    return Source(Place(), str(path), whole=True)


def _time(changed: str) -> float:
    """A Last-Modified; the epoch where the server tells none, so that the same file gives the same layer."""
    try:
        return max(0.0, parsedate_to_datetime(changed).timestamp())
    except (ValueError, TypeError, OverflowError):
        return 0.0
