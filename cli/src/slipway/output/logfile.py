"""A CRI log file as its reader sees it: whole records, also across rotations."""

import re
import sys
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

from common import crilog
from common.crilog import Record

CHUNK_BYTES = 1 << 20
_COMMANDS = re.compile(
    r"\x1b\[[0-9;:]*m|\r\n|[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]"
)


class LogFile:
    """Reads on from where it was; a file that was rotated is read to its end before the new one.

    Args:
        path: where it is.
        start: the byte of the first file to begin with.
    """

    def __init__(self, path: str, start: int = 0) -> None:
        self._path = Path(path)
        self._start = start
        self._file: FileIO | None = None
        self._torn = b""

    def records(self) -> Iterator[Record]:
        """The records that are there and were not read yet.

        Raises:
            OSError: what is there is no log, such as a link.
        """
        while self._file is not None or self._open():
            yield from self._rest()
            if not self._rotated():
                return
            # The writer has left the old file for the new one, so nothing follows what this reads.
            yield from self._rest()
            self.close()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> bool:
        try:
            self._file = FileIO(crilog.opened(str(self._path)))
        except FileNotFoundError:
            return False
        self._file.seek(self._start)
        self._start = 0
        self._torn = b""
        return True

    def _rest(self) -> Iterator[Record]:
        while self._file is not None and (chunk := self._file.read(CHUNK_BYTES)):
            part = self._torn + chunk
            self._torn = part[part.rfind(b"\n") + 1 :]
            yield from crilog.records(part)

    def _rotated(self) -> bool:
        import os

        try:
            now = self._path.stat()
        except FileNotFoundError:
            return False
        mine = os.fstat(self._file.fileno()) if self._file is not None else now
        return (now.st_dev, now.st_ino) != (mine.st_dev, mine.st_ino)


def harmless(text: bytes) -> bytes:
    """Output of a container for a terminal: its colours stay, all else that moves or commands is spelled out."""
    return _COMMANDS.sub(_spelled, text.decode(errors="backslashreplace")).encode()


def _spelled(found: re.Match[str]) -> str:
    text = found[0]
    if len(text) > 1:  # a colour, or the end of a line on a terminal
        return text
    code = ord(text)
    return f"^{chr(code ^ 0x40)}" if code < 0x80 else f"\\u{code:04x}"


def show(record: Record, *, timestamps: bool = False, plain: bool = False) -> None:
    """Print a record where its output belongs; `plain` spells out what would command a terminal."""
    text = harmless(record.output) if plain else record.output
    out = sys.stderr.buffer if record.stream == b"stderr" else sys.stdout.buffer
    out.write((record.at + b" " if timestamps else b"") + text)


def flush() -> None:
    """Let what was shown appear."""
    sys.stdout.flush()
    sys.stderr.flush()
