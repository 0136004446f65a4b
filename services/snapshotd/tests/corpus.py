"""Hostile and odd layers: stacks that must show what the reference shows, layers and blobs that must be refused.

`python -m services.snapshotd.tests.corpus DIRECTORY` writes the blobs, for other runtimes to try; manifests are in that of imaged.
"""

import gzip
import sys
import tarfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import zstandard

from services.snapshotd.tests.test_snapshotd_layers import AT, BASE, E, tar

BLOCK = 512
HOST = "@HOST@"
"""In a link's target: a directory of the host that no layer may tell about or change."""
ODD = b"odd-\xff\xe9".decode("utf-8", "surrogateescape")
TOP = ["etc", "var"]
LONG = "names of 255 bytes"
"""Which erofs-utils 1.5 cannot write."""

STACKS: dict[str, list[list[E]]] = {
    "a lower link to a directory of the host, an upper entry through it": [
        [E("l", "etc", target=HOST), E("l", "up", target="../../../../../.." + HOST)],
        [E("f", "etc/data/x", b"1"), E("f", "etc/data/deep/y", b"2"), E("f", "up/data/z", b"3")],
    ],
    "a lower link within a path, an upper entry through it": [
        [E("d", "a/"), E("l", "a/etc", target=HOST)],
        [E("f", "a/etc/data/x", b"1")],
        [E("d", "a/", mode=0o711), E("f", "a/etc/data/deep/y", b"2")],
    ],
    "a directory, a link in its place, and a directory again": [
        BASE,
        [E("l", "etc", target="/var")],
        [E("f", "etc/n", b"1")],
        [E("d", "etc/", mode=0o700), E("l", "var", target=HOST)],
        [E("f", "var/n", b"2")],
    ],
    "a link and a file through it, in one layer": [
        [
            E("l", "up", target=HOST),
            E("f", "up/n", b"1"),
            E("l", "x", target="../" * 50 + "etc"),
            E("f", "x/m", b"2"),
        ]
    ],
    "a link to itself by a longer way": [
        [E("d", "d/"), E("l", "d/l", target="../d"), E("f", "d/l/l/l/n", b"1")]
    ],
    "a file where a lower link leads to the host": [
        [E("l", "n", target=f"{HOST}/canary")],
        [E("f", "n", b"1")],
    ],
    "attributes through a lower link": [
        [E("l", "n", target=f"{HOST}/canary"), E("l", "d", target=HOST)],
        [E("d", "d/", mode=0o777, uid=7), E("f", "n", b"1", mode=0o4777, uid=7)],
    ],
    "whiteouts of everything, one by one": [BASE, [E("f", f".wh.{name}") for name in TOP]],
    "a whiteout of everything at once": [BASE, [E("f", ".wh..wh..opq")]],
    "whiteouts of everything, and all anew": [BASE, [E("f", f".wh.{name}") for name in TOP], BASE],
    "a whiteout through a lower link": [[*BASE, E("l", "l", target="etc")], [E("f", "l/.wh.a")]],
    "a whiteout through a link of its layer": [
        BASE,
        [E("d", "etc/"), E("l", "l", target="etc"), E("f", "l/.wh.a")],
    ],
    "whiteouts upon whiteouts": [BASE, [E("f", "etc/.wh.d")], [E("f", "etc/.wh.d"), E("f", "etc/.wh.none")]],
    "a whiteout hides what a directory looked like": [
        [E("d", "a/"), E("d", "a/b/", mode=0o700, uid=9)],
        [E("f", ".wh.a")],
        [E("f", "a/b/n", b"1")],
    ],
    "an opaque directory hides what those in it looked like": [
        [E("d", "a/"), E("d", "a/b/", mode=0o700, uid=9)],
        [E("d", "a/", mode=0o750), E("f", "a/.wh..wh..opq")],
        [E("f", "a/b/n", b"1")],
    ],
    "a file hides what those below it looked like": [
        [E("d", "a/"), E("d", "a/b/", mode=0o700, uid=9)],
        [E("f", "a", b"1")],
        [E("f", "a/b/n", b"1")],
    ],
    "overlayfs' form of a whiteout": [BASE, [E("d", "etc/"), E("c", "etc/a"), E("c", "none")]],
    "device nodes": [
        [
            E("c", "null", mode=0o666, device=(1, 3)),
            E("b", "disk", mode=0o660, device=(8, 0), gid=6),
            E("c", "last", device=(4095, 1048575)),
            E("h", "again", target="null"),
            E("c", "gone", device=(1, 1)),
            E("f", "gone", b"1"),
            E("d", "d/"),
            E("b", "d/disk", device=(8, 1)),
            E("f", "d", b"2"),
        ]
    ],
    "a device in a lower layer, a file above": [[E("c", "n", device=(1, 1))], [E("f", "n", b"1")]],
    "duplicates of every kind": [
        [
            E("f", "n", b"1"),
            E("d", "n/"),
            E("f", "n/x", b"1"),
            E("l", "n", target="m"),
            E("p", "n"),
            E("c", "n", device=(1, 3)),
            E("f", "n", b"2"),
            E("h", "m", target="n"),
            E("f", "n", b"3"),
            E("d", "d/", mode=0o700),
            E("d", "d/", mode=0o711),
        ]
    ],
    "names that differ by case and form": [
        [
            E("f", name, name.encode())
            for name in ("readme", "README", "ReadMe", "\u00e9", "e\u0301", "I", "\u0131", "i")
        ]
    ],
    "names that are no text": [
        [
            E("f", name, b"1")
            for name in (
                ODD,
                "new\nline",
                "tab\t",
                "-rf",
                "--",
                "*",
                "a b",
                "\\",
                "\x1b[2J",
                ".wh",
                "..a",
                "...",
                "con",
                ":",
                "n" * 254,
            )
        ]
    ],
    "links between names that are no ASCII": [
        [E("f", "\u00e9", b"1"), E("l", "s", target="e\u0301"), E("h", "e\u0301h", target="\u00e9")]
    ],
    LONG: [[E("f", "d" * 255 + "/" + "f" * 255, b"1")]],
    "many directories, one in the other": [[E("f", "d/" * 400 + "n", b"1")]],
    "a directory that nobody may enter": [
        [E("d", "d/", mode=0o1000), E("f", "d/n", b"1"), E("d", "d/e/", mode=0o0001)]
    ],
    "a set-uid file that is linked": [
        [E("f", "a", b"1", mode=0o6755, uid=1), E("h", "b", target="a"), E("h", "c", target="b")]
    ],
    "a link that is linked": [[E("l", "a", target=HOST), E("h", "b", target="a")]],
    "a hard link replaces, and is replaced": [
        [
            E("f", "a", b"1"),
            E("f", "b", b"2"),
            E("h", "b", target="a"),
            E("f", "a", b"3"),
            E("h", "a", target="a"),
        ]
    ],
    "a thousand hard links": [[E("f", "n0", b"1"), *[E("h", f"n{i}", target="n0") for i in range(1, 1000)]]],
    "times and owners at their ends": [
        [
            E("f", "a", b"1", mtime=0),
            E("f", "b", b"1", mtime=1 << 32),
            E("f", "c", b"1", uid=0xFFFFFFFE, gid=0xFFFFFFFE),
        ]
    ],
    "a name without end, and back": [
        [E("f", "a/./././b//c/./n", b"1"), E("f", "./././m", b"2"), E("f", "//k", b"3")]
    ],
    "two thousand files in one directory": [
        [E("d", "d/"), *[E("f", f"d/{i:07}", b"x") for i in range(2000)]]
    ],
    "a layer of nothing": [BASE, []],
    "a layer that describes the root alone": [BASE, [E("d", "./", mode=0o701, uid=3, gid=4)]],
}
REFUSED: dict[str, list[E]] = {
    "a name that climbs": [E("f", "a/../../x", b"1")],
    "a name that is only up": [E("d", "..")],
    "a link's name that climbs": [E("l", "../x", target="y")],
    "a hard link to the host": [E("h", "n", target=f"{HOST}/canary")],
    "a hard link to a link's target": [E("l", "l", target=HOST), E("h", "n", target="l/canary")],
    "a hard link that climbs": [E("h", "n", target="../../etc/passwd")],
    "a hard link to a whiteout": [E("f", ".wh.n"), E("h", "m", target="n")],
    "a hard link to what an opaque mark is": [E("h", "m", target=".wh..wh..opq")],
    "a hard link below its own target": [E("f", "a", b"1"), E("h", "a/b", target="a")],
    "a device that cannot be": [E("c", "n", device=(1 << 13, 1))],
    "links that double with each step": [
        E("l", "l0", target="."),
        *[E("l", f"l{i}", target=f"l{i - 1}/" * 40) for i in range(1, 40)],
        E("f", "l39/n", b"1"),
    ],
    "a whiteout of the directory itself": [E("f", "a/.wh..")],
    "a file in a fifo": [E("p", "p"), E("f", "p/n", b"1")],
    "a file larger than all may be": [E("f", "n", bytes(65 << 20))],
    "directories that are implied without end": [E("f", f"{i}/" * 400 + "n", b"1") for i in range(15)],
    "a path that links make too long": [
        E("d", "d" * 200 + "/" + "d" * 200 + "/" + "d" * 200 + "/"),
        E("l", "l", target="/".join(["d" * 200] * 3)),
        E("l", "d" * 200 + "/" + "d" * 200 + "/" + "d" * 200 + "/m", target="x" * 200 + "/" + "y" * 200),
        E("f", "l/m/" + "z/" * 700 + "n", b"1"),
    ],
}


def header(name: bytes, *, size: bytes = b"0" * 11 + b"\0", kind: bytes = b"0") -> bytes:
    """A raw header of ustar, with its checksum."""
    raw = bytearray(BLOCK)
    raw[: len(name)] = name
    raw[100:108], raw[108:116], raw[116:124] = b"0000644\0", b"0000000\0", b"0000000\0"
    raw[124:136], raw[136:148], raw[148:156] = size, b"00000000000\0", b" " * 8
    raw[156:157], raw[257:265] = kind, b"ustar\x0000"
    raw[148:156] = b"%06o\0 " % sum(raw)
    return bytes(raw)


END = bytes(2 * BLOCK)
ONE = tar([E("f", "n", bytes(range(256)) * 8, mtime=AT), E("d", "d/"), E("f", "d/m", b"1")])
DAMAGED: dict[str, bytes] = {
    "a size below zero": header(b"n", size=b"\xff" * 12) + END,
    "a size of 8 EiB": header(b"n", size=b"\x80" + b"\0" * 3 + b"\x7f" + b"\xff" * 7) + b"x" * BLOCK + END,
    "a size of letters": header(b"n", size=b"zzzzzzzzzzz\0") + END,
    "a checksum that is wrong": header(b"n")[:-1] + b"!" + END,
    "a name of zeros": header(b"") + END,
    "a PAX header of 100 MB": header(b"x", size=b"%011o\0" % (100 << 20), kind=b"x") + bytes(BLOCK) * 4,
    "a PAX record that is longer than its header": header(b"x", size=b"%011o\0" % 20, kind=b"x")
    + b"999999 path=aaaaaaaa".ljust(BLOCK, b"\0")
    + header(b"n")
    + END,
    "a PAX header for nothing": header(b"x", size=b"%011o\0" % 0, kind=b"x") * 200 + END,
    "long names of GNU without end": header(b"x", size=b"%011o\0" % BLOCK, kind=b"L") + b"a" * BLOCK + END,
    "a GNU name of 100 MB": header(b"x", size=b"%011o\0" % (100 << 20), kind=b"L") + bytes(BLOCK) * 4,
    "sparse maps of nonsense": header(b"n", size=b"%011o\0" % BLOCK, kind=b"S") + b"\xff" * BLOCK + END,
    "types that are none": b"".join(header(b"n%d" % i, kind=bytes([i])) for i in range(128, 140)) + END,
    "all bytes the same": b"\xff" * 4096,
}


@cache
def floods() -> dict[str, bytes]:
    """PAX records by the ten thousand, most of which mean nothing; a map of a file that takes more than is had; a directory that is said to be opaque again and again, and to walk it each time would take hours."""
    records = {f"SLIPWAY.{i:06}": "x" * 60 for i in range(10_000)}
    xattrs = {f"SCHILY.xattr.user.{i:05}": "x" * 100 for i in range(2000)}
    names = [E("f", f"d/{i}") for i in range(5000)]
    return {
        "a flood of records": tar([E("f", "n", b"1", pax=records)]),
        "a flood of attributes": tar([E("f", "n", b"1", pax=xattrs)]),
        "a sparse map of millions": sparse(4 << 20, pieces=2_000_000),
        "a flood of opaque marks": tar([E("d", "d/"), *names, *[E("f", "d/.wh..wh..opq")] * 20_000]),
    }


@cache
def bombs() -> list[tuple[str, bytes, bytes]]:
    """Name, content's first bytes, and a blob that is some thousand times as large when it is unpacked."""
    zeros = header(b"n", size=b"%011o\0" % (4 << 30)) + bytes(1 << 20)
    deflater = gzip.zlib.compressobj(9, wbits=31)  # type: ignore[attr-defined]
    squeezed = deflater.compress(zeros) + b"".join(deflater.compress(bytes(1 << 20)) for _ in range(200))
    found = [("gzip", zeros, squeezed + deflater.flush())]
    packer = zstandard.ZstdCompressor(level=19).compressobj()
    squeezed = packer.compress(zeros) + b"".join(packer.compress(bytes(1 << 20)) for _ in range(200))
    found.append(("zstd", zeros, squeezed + packer.flush()))
    wide = zstandard.ZstdCompressionParameters(window_log=27, enable_ldm=True)
    packer = zstandard.ZstdCompressor(compression_params=wide).compressobj()
    return [*found, ("zstd window", zeros, packer.compress(zeros) + packer.flush())]


COMPRESSIONS: dict[str, tuple[Callable[[bytes], bytes], int]] = {
    "none": (bytes, BLOCK),
    "gzip": (gzip.compress, 32),
    "zstd": (zstandard.compress, 32),
}


def cuts(compression: str) -> Iterator[bytes]:
    """A blob of ONE that ends too early, at every step."""
    compress, step = COMPRESSIONS[compression]
    blob = compress(ONE)
    for end in range(0, len(blob), step):
        yield blob[:end]


def sparse(size: int, pieces: int = 0) -> bytes:
    """A file of one hole, in PAX's sparse form 1.0: a map of single bytes, and of one empty extent at its end."""
    body = b"%d\n" % (pieces + 1) + b"".join(b"%d\n1\n" % (2 * n) for n in range(pieces)) + b"%d\n0\n" % size
    body += bytes(-len(body) % BLOCK) + bytes(pieces)
    records = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": "hole",
        "GNU.sparse.realsize": str(size),
    }
    return tar([E("f", "GNUSparseFile.0/hole", body, pax=records)])


def many(count: int, path: Path, *, name_bytes: int = 40) -> None:
    """A directory of so many files, as a tar on disk."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for number in range(count):
            archive.addfile(tarfile.TarInfo(f"d/{number:0{name_bytes}}"))


def blobs() -> Iterator[tuple[str, bytes]]:
    """All of it but the million files, by name."""
    for name, layers in STACKS.items():
        for number, entries in enumerate(layers):
            yield f"{name}, {number}.tar", tar(entries)
    for name, entries in REFUSED.items():
        yield f"{name}.tar", tar(entries)
    for name, raw in (DAMAGED | floods()).items():
        yield f"{name}.tar", raw
    for name, _, blob in bombs():
        yield f"a bomb, {name}.tar.{name.partition(' ')[0]}", blob
    for size in (64 << 20, 1 << 50):
        yield f"a hole of {size} bytes.tar", sparse(size)
    for compression in COMPRESSIONS:
        for blob in cuts(compression):
            yield f"cut at byte {len(blob)}, {compression}.tar", blob


def main() -> None:
    """Write it."""
    directory = Path(sys.argv[1])
    for name, blob in blobs():
        (directory / name).write_bytes(blob)
    many(1_000_000, directory / "a million files.tar")


if __name__ == "__main__":
    main()
