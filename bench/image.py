"""The images of the pull benchmark, the same on any machine: many files in a few layers, one large layer, many small layers.

Their files have sizes like those of a Debian root, mostly small with a few large ones, and compress alike.
"""

import gzip
import io
import random
import tarfile
from dataclasses import dataclass
from pathlib import Path

from devtools.registry import Layer, Registry, digest

CACHE = Path("/var/cache/slipway-dev")
_POOL_BYTES = 32 << 20
_RANDOM_SHARE = 0.05
_MAX_FILE_BYTES = 4 << 20


@dataclass(frozen=True)
class Shape:
    """An image; all but the number of layers is for each layer."""

    name: str
    title: str
    layers: int
    directories: int
    links: int
    files: int
    content_bytes: int
    level: int
    goal: str
    """Of the time of a pull, against containerd's."""


SHAPES = (
    Shape("large", "341 MB in 4 layers", 4, 650, 450, 5400, 81_000_000, 6, "0.4 x"),
    Shape("single", "2 GB in one layer", 1, 400, 100, 6000, 2_000_000_000, 1, "0.5 x"),
    Shape("small", "60 small layers", 60, 4, 2, 24, 300_000, 6, "0.4 x"),
)


def push(registry: Registry, shape: Shape) -> str:
    """Push an image; its layers are made once, then cached."""
    cache = CACHE / f"{shape.name}-1"
    if not cache.exists():
        made = cache.with_suffix(".new")
        made.mkdir(parents=True, exist_ok=True)
        chance = random.Random(1)  # noqa: S311 - the same image every time
        pool = _pool(chance)
        for number in range(shape.layers):
            raw = _tar(shape, number, chance, pool)
            (made / f"{number}.digest").write_text(digest(raw))
            (made / f"{number}.tar.gz").write_bytes(gzip.compress(raw, shape.level, mtime=0))
        made.rename(cache)
    layers = [
        Layer((cache / f"{n}.tar.gz").read_bytes(), (cache / f"{n}.digest").read_text())
        for n in range(shape.layers)
    ]
    return registry.push(f"bench/{shape.name}", layers, {"Cmd": ["sh"]})


def _pool(chance: random.Random) -> bytes:
    """Bytes to cut files from: words, and among them what does not compress."""
    words = [chance.randbytes(chance.randint(2, 12)) for _ in range(600)]
    pool = bytearray()
    while len(pool) < _POOL_BYTES:
        pool += b" ".join(chance.choices(words, k=400))
        pool += chance.randbytes(int(_RANDOM_SHARE * 3200))
    return bytes(pool)


def _tar(shape: Shape, number: int, chance: random.Random, pool: bytes) -> bytes:
    drawn = [chance.lognormvariate(8.0, 1.7) for _ in range(shape.files)]
    scale = shape.content_bytes / sum(drawn)
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=tarfile.PAX_FORMAT) as tar:
        folders = [f"usr/share/layer{number}"]
        for index in range(shape.directories):
            entry = tarfile.TarInfo(folders[-1] if index == 0 else f"{chance.choice(folders)}/d{index}")
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
            folders.append(entry.name)
        for index, size in enumerate(drawn):
            entry = tarfile.TarInfo(f"{chance.choice(folders)}/f{index}")
            entry.size = min(int(size * scale), _MAX_FILE_BYTES if shape.layers > 1 else len(pool) // 2)
            start = chance.randrange(len(pool) - entry.size)
            tar.addfile(entry, io.BytesIO(pool[start : start + entry.size]))
        for index in range(shape.links):
            entry = tarfile.TarInfo(f"{chance.choice(folders)}/l{index}")
            entry.type, entry.linkname = tarfile.SYMTYPE, f"f{index}"
            tar.addfile(entry)
    return output.getvalue()
