"""SPDY/3.1 frames: bytes in, frames out, and back; no I/O.

Streams with headers, data, resets, pings, windows and the farewell; of the settings the size of windows. Unknown
control frames are skipped, as the specification wants. Data frames are handed on in the pieces in which they
arrive, so a reader holds no more than one piece.
"""

import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from crid.streaming.spdydict import DICTIONARY

MAX_CONTROL_BYTES = 64 << 10
MAX_HEADERS, MAX_HEADER_BYTES = 32, 4 << 10
"""Of one frame. Kubernetes' clients send three short ones; compressed, thousands are hardly longer."""
MAX_DATA_BYTES = (1 << 24) - 1
VERSION = 3
FIN = 1
UNIDIRECTIONAL = 2
PROTOCOL_ERROR, INVALID_STREAM, REFUSED_STREAM, CANCEL, STREAM_IN_USE = 1, 2, 3, 5, 8
INITIAL_WINDOW_BYTES = 64 << 10
_SYN_STREAM, _SYN_REPLY, _RST_STREAM, _SETTINGS = 1, 2, 3, 4
_PING, _GOAWAY, _HEADERS, _WINDOW_UPDATE = 6, 7, 8, 9
_SETTING_WINDOW = 7
_HEAD = struct.Struct(">II")
_STREAM_MASK = 0x7FFFFFFF


class FrameError(Exception):
    """Bytes that are no SPDY/3.1; the connection cannot go on."""


@dataclass(frozen=True, slots=True)
class SynStream:
    """A stream begins."""

    stream_id: int
    headers: dict[str, str]
    fin: bool = False


@dataclass(frozen=True, slots=True)
class SynReply:
    """The peer accepts a stream."""

    stream_id: int
    headers: dict[str, str]
    fin: bool = False


@dataclass(frozen=True, slots=True)
class Headers:
    """More headers of a stream."""

    stream_id: int
    headers: dict[str, str]
    fin: bool = False


@dataclass(frozen=True, slots=True)
class Data:
    """A piece of a stream; `fin` when it was the last of all."""

    stream_id: int
    data: bytes
    fin: bool = False


@dataclass(frozen=True, slots=True)
class RstStream:
    """A stream ends at once, both ways."""

    stream_id: int
    status: int


@dataclass(frozen=True, slots=True)
class Ping:
    """To be sent back as it is."""

    ping_id: int


@dataclass(frozen=True, slots=True)
class GoAway:
    """No stream after this one is answered."""

    last_stream_id: int


@dataclass(frozen=True, slots=True)
class WindowUpdate:
    """So many bytes more may be sent."""

    stream_id: int
    delta: int


@dataclass(frozen=True, slots=True)
class InitialWindow:
    """So many bytes of each stream may be sent before the first update: of the settings the one that matters."""

    size: int


@dataclass(frozen=True, slots=True)
class Skipped:
    """A control frame that means nothing here."""

    kind: int


Frame = (
    SynStream | SynReply | Headers | Data | RstStream | Ping | GoAway | WindowUpdate | InitialWindow | Skipped
)


class Reader:
    """Cuts bytes into frames. Header blocks share one compression, so a reader serves one connection."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._inflate = zlib.decompressobj(zdict=DICTIONARY)
        self._data_left = 0
        self._data_stream = 0
        self._data_fin = False

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames, or pieces of data frames, that these bytes complete; each is read when it is asked for.

        Raises:
            FrameError: they are no SPDY/3.1.
        """
        self._buffer += data
        while (frame := self._next()) is not None:
            yield frame

    def _next(self) -> Frame | None:
        """None when more bytes are needed."""
        if self._data_left:
            return self._piece()
        if len(self._buffer) < _HEAD.size:
            return None
        first, second = _HEAD.unpack_from(self._buffer)
        flags, size = second >> 24, second & MAX_DATA_BYTES
        if not first >> 31:
            del self._buffer[: _HEAD.size]
            self._data_stream, self._data_fin, self._data_left = first, bool(flags & FIN), size
            return self._piece() if size else Data(first, b"", self._data_fin)
        version, kind = first >> 16 & 0x7FFF, first & 0xFFFF
        if version != VERSION:
            raise FrameError(f"a control frame of version {version}, not {VERSION}")
        if size > MAX_CONTROL_BYTES:
            raise FrameError(f"a control frame of {size} bytes, more than {MAX_CONTROL_BYTES}")
        if len(self._buffer) < _HEAD.size + size:
            return None
        body = self._take(_HEAD.size, size)
        try:
            return self._control(kind, flags, body)
        except (struct.error, zlib.error, UnicodeDecodeError) as exc:
            raise FrameError(f"a control frame of type {kind} that cannot be read: {exc}") from exc

    def _piece(self) -> Data | None:
        if not self._buffer:
            return None
        piece = self._take(0, min(self._data_left, len(self._buffer)))
        self._data_left -= len(piece)
        return Data(self._data_stream, piece, self._data_fin and not self._data_left)

    def _take(self, start: int, size: int) -> bytes:
        with memoryview(self._buffer) as view:
            piece = bytes(view[start : start + size])
        del self._buffer[: start + size]
        return piece

    def _control(self, kind: int, flags: int, body: bytes) -> Frame:
        words = struct.unpack_from(f">{len(body) // 4}I", body)
        fin = bool(flags & FIN)
        try:
            if kind == _SYN_STREAM:
                return SynStream(words[0] & _STREAM_MASK, self._headers(body[10:]), fin)
            if kind == _SYN_REPLY:
                return SynReply(words[0] & _STREAM_MASK, self._headers(body[4:]), fin)
            if kind == _HEADERS:
                return Headers(words[0] & _STREAM_MASK, self._headers(body[4:]), fin)
            return _of_words(kind, words)
        except IndexError as exc:
            raise FrameError(f"a control frame of type {kind} with {len(body)} bytes only") from exc

    def _headers(self, block: bytes) -> dict[str, str]:
        plain = self._inflate.decompress(block, MAX_HEADER_BYTES)
        if self._inflate.unconsumed_tail:
            raise FrameError(f"headers of more than {MAX_HEADER_BYTES} bytes")
        at, headers, count = 4, dict[str, str](), struct.unpack_from(">I", plain)[0]
        if count > MAX_HEADERS:
            raise FrameError(f"{count} headers, more than {MAX_HEADERS}")
        for _ in range(count):
            name, at = _text(plain, at)
            headers[name.lower()], at = _text(plain, at)
        return headers


def _of_words(kind: int, words: tuple[int, ...]) -> Frame:
    """A control frame that is nothing but numbers."""
    if kind == _RST_STREAM:
        return RstStream(words[0] & _STREAM_MASK, words[1])
    if kind == _SETTINGS:
        values = {words[at] & 0xFFFFFF: words[at + 1] for at in range(1, 2 * words[0], 2)}
        if _SETTING_WINDOW in values:
            return InitialWindow(values[_SETTING_WINDOW] & _STREAM_MASK)
    if kind == _PING:
        return Ping(words[0])
    if kind == _GOAWAY:
        return GoAway(words[0] & _STREAM_MASK)
    if kind == _WINDOW_UPDATE:
        return WindowUpdate(words[0] & _STREAM_MASK, words[1] & _STREAM_MASK)
    return Skipped(kind)


def _text(plain: bytes, at: int) -> tuple[str, int]:
    size = struct.unpack_from(">I", plain, at)[0]
    end = at + 4 + size
    if end > len(plain):
        raise FrameError("headers that end in the middle")
    return plain[at + 4 : end].decode("latin-1"), end


class Writer:
    """Makes the bytes of frames. They must be sent in the order of the calls: headers share one compression."""

    def __init__(self) -> None:
        self._deflate = zlib.compressobj(zdict=DICTIONARY)

    def syn_stream(self, stream_id: int, headers: Mapping[str, str], *, fin: bool = False) -> bytes:
        body = struct.pack(">IIH", stream_id, 0, 0) + self._headers(headers)
        return _control(_SYN_STREAM, body, FIN if fin else 0)

    def syn_reply(self, stream_id: int, headers: Mapping[str, str]) -> bytes:
        return _control(_SYN_REPLY, struct.pack(">I", stream_id) + self._headers(headers))

    def _headers(self, headers: Mapping[str, str]) -> bytes:
        plain = struct.pack(">I", len(headers))
        for name, value in headers.items():
            for text in (name.lower().encode("latin-1"), value.encode("latin-1")):
                plain += struct.pack(">I", len(text)) + text
        return self._deflate.compress(plain) + self._deflate.flush(zlib.Z_SYNC_FLUSH)


def data(stream_id: int, payload: bytes, *, fin: bool = False) -> bytes:
    """A data frame of at most MAX_DATA_BYTES."""
    return _HEAD.pack(stream_id, (FIN << 24 if fin else 0) | len(payload)) + payload


def rst_stream(stream_id: int, status: int) -> bytes:
    return _control(_RST_STREAM, struct.pack(">II", stream_id, status))


def ping(ping_id: int) -> bytes:
    return _control(_PING, struct.pack(">I", ping_id))


def goaway(last_stream_id: int) -> bytes:
    return _control(_GOAWAY, struct.pack(">II", last_stream_id, 0))


def window_update(stream_id: int, delta: int) -> bytes:
    return _control(_WINDOW_UPDATE, struct.pack(">II", stream_id, delta))


def initial_window(size: int) -> bytes:
    return _control(_SETTINGS, struct.pack(">III", 1, _SETTING_WINDOW, size))


def _control(kind: int, body: bytes, flags: int = 0) -> bytes:
    return _HEAD.pack(1 << 31 | VERSION << 16 | kind, flags << 24 | len(body)) + body


PING = ping(2)
"""A ping of the server's, whose ids are even; a client sends it back."""
LAST_ID = 4
"""Of the ping behind the last frame of all."""
