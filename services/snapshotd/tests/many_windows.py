"""As many threads as a server has, each with frames of the largest window, in as much memory as a server may have."""

import hashlib
import resource
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

import zstandard

from snapshotd.lazy.chunks import Chunks
from snapshotd.lazy.member import ZSTD
from snapshotd.lazy.server import READERS, WAITERS
from snapshotd.lazy.tree import Chunk
from snapshotd.lazy.worker import MEMORY_BYTES

WINDOW_LOG, SIZE, ROUNDS = 26, 12 << 20, 3
THREADS = READERS + WAITERS


class NoSource:
    """All is here."""

    def bring(self, start: int, end: int, *, again: bool) -> None:
        """Nothing to bring."""

    def damaged(self, start: int, end: int) -> None:
        raise AssertionError("it is not damaged")


def frame(raw: bytes) -> bytes:
    """One without its content's size, as a stream is written: its reader needs the whole window."""
    settings = zstandard.ZstdCompressionParameters.from_level(1, window_log=WINDOW_LOG)
    stream = zstandard.ZstdCompressor(compression_params=settings).compressobj()
    return stream.compress(raw) + stream.flush()


def main() -> None:
    """Say `all` when each read had its bytes."""
    with tempfile.TemporaryFile() as blob:
        found = []
        for number in range(THREADS):
            raw = number.to_bytes(4, "little") * (SIZE // 4)
            start = blob.tell()
            blob.write(frame(raw))
            found.append(Chunk(0, SIZE, start, 0, blob.tell(), hashlib.sha256(raw).digest()))
        blob.flush()
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        chunks = Chunks(blob.fileno(), NoSource(), ZSTD, kept_bytes=0)
        with ThreadPoolExecutor(THREADS) as pool:
            for piece in pool.map(chunks.get, found * ROUNDS):
                assert len(piece) == SIZE
    sys.stdout.write("all")


if __name__ == "__main__":
    main()
