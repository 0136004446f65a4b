"""The image of the pull benchmark: 4 layers, 26,000 entries, a tar of 341 MB, 105 MB by gzip; the same on any machine.

Its files have sizes like those of a Debian root, mostly small with a few large ones, and compress alike.
"""

import gzip
import io
import random
import tarfile
from pathlib import Path

from devtools.registry import Layer, Registry, digest

CACHE = Path("/var/cache/slipway-dev/large-1")
LAYERS = 4
DIRECTORIES, LINKS, FILES = 650, 450, 5400
"""In each layer."""
CONTENT_BYTES = 81_000_000
"""In each layer; headers and padding come on top."""
_POOL_BYTES = 32 << 20
_RANDOM_SHARE = 0.05
_MAX_FILE_BYTES = 4 << 20


def large_image(registry: Registry) -> str:
    """Push the image; made once, then cached."""
    if not CACHE.exists():
        made = CACHE.with_suffix(".new")
        made.mkdir(parents=True, exist_ok=True)
        chance = random.Random(1)  # noqa: S311 - the same image every time
        pool = _pool(chance)
        for number in range(LAYERS):
            raw = _tar(number, chance, pool)
            (made / f"{number}.digest").write_text(digest(raw))
            (made / f"{number}.tar.gz").write_bytes(gzip.compress(raw, 6, mtime=0))
        made.rename(CACHE)
    layers = [
        Layer((CACHE / f"{n}.tar.gz").read_bytes(), (CACHE / f"{n}.digest").read_text())
        for n in range(LAYERS)
    ]
    return registry.push("bench/large", layers, {"Cmd": ["sh"]})


def _pool(chance: random.Random) -> bytes:
    """Bytes to cut files from: words, and among them what does not compress."""
    words = [chance.randbytes(chance.randint(2, 12)) for _ in range(600)]
    pool = bytearray()
    while len(pool) < _POOL_BYTES:
        pool += b" ".join(chance.choices(words, k=400))
        pool += chance.randbytes(int(_RANDOM_SHARE * 3200))
    return bytes(pool)


def _tar(number: int, chance: random.Random, pool: bytes) -> bytes:
    drawn = [chance.lognormvariate(8.0, 1.7) for _ in range(FILES)]
    scale = CONTENT_BYTES / sum(drawn)
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=tarfile.PAX_FORMAT) as tar:
        folders = [f"usr/share/layer{number}"]
        for index in range(DIRECTORIES):
            entry = tarfile.TarInfo(folders[-1] if index == 0 else f"{chance.choice(folders)}/d{index}")
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
            folders.append(entry.name)
        for index, size in enumerate(drawn):
            entry = tarfile.TarInfo(f"{chance.choice(folders)}/f{index}")
            entry.size = min(int(size * scale), _MAX_FILE_BYTES)
            start = chance.randrange(len(pool) - entry.size)
            tar.addfile(entry, io.BytesIO(pool[start : start + entry.size]))
        for index in range(LINKS):
            entry = tarfile.TarInfo(f"{chance.choice(folders)}/l{index}")
            entry.type, entry.linkname = tarfile.SYMTYPE, f"f{index}"
            tar.addfile(entry)
    return output.getvalue()
