"""Readers of what others say, each given bytes: it reads them or refuses them by an error of ours, and nothing else is raised."""

import gzip
import hashlib
import io
import json
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import zstandard
from nats.aio.client import Client
from nats.aio.msg import Msg

from common.dockerconfig import find_login
from common.errors import DataLossError, FailedPreconditionError, InvalidArgumentError, NotFoundError
from imaged import hosts, manifest, signed
from imaged.adapters.referrers import listed
from imaged.adapters.registry_auth import parse_challenges
from imaged.adapters.transport import _seconds
from imaged.archive.contents import images_of
from imaged.archive.inflate import Inflater
from imaged.manifest import Descriptor, Index, Manifest, Platform
from imaged.peers.neighbours import Answer, Neighbours, Question
from imaged.peers.seal import Seals
from imaged.peers.server import _Refusal, _span
from imaged.ports import Spooled, SpooledFile
from imaged.reference import Reference
from services.imaged.tests.corpus import MANIFESTS, D, doc
from services.imaged.tests.tartold import parsed

AMD64 = Platform("linux", "amd64")
REFUSED = (DataLossError, FailedPreconditionError, InvalidArgumentError, NotFoundError)
MAX_INFLATED = 64 << 20
_places: list[tempfile.TemporaryDirectory[str]] = []


def place() -> Path:
    """A directory of this process, for readers of files."""
    if not _places:
        _places.append(tempfile.TemporaryDirectory(prefix="slipway-fuzz-", dir="/dev/shm"))
    return Path(_places[0].name)


def reference(data: bytes) -> None:
    try:
        found = Reference.parse(data.decode(errors="replace"))
    except InvalidArgumentError:
        return
    assert Reference.parse(str(found)) == found
    assert not {".", ".."} & set(found.path.split("/"))


def headers(data: bytes) -> None:
    lines = data.decode("latin-1").split("\n")
    for found in parse_challenges(lines):
        assert found.scheme in ("basic", "bearer")
    for line in lines:
        assert _seconds(line) >= 0
        try:
            start, end = _span(line, 1 << 20)
        except _Refusal:
            continue
        assert 0 <= start <= end <= 1 << 20


def hosts_toml(data: bytes) -> None:
    (place() / "reg.example").mkdir(exist_ok=True)
    (place() / "reg.example/hosts.toml").write_bytes(data)
    try:
        found = hosts.find(str(place()), "reg.example")
    except FailedPreconditionError:
        return
    assert all(host.url.startswith(("http://", "https://")) and host.name for host in found)


def logins(data: bytes) -> None:
    if b"creds" in data or b"credHelpers" in data:
        return  # these name programs to run
    (place() / "config.json").write_bytes(data)
    try:
        find_login(place() / "config.json", "reg.example")
    except FailedPreconditionError:
        return


def document(data: bytes) -> None:
    try:
        read = manifest.parse("i", data, "")
        if isinstance(read, Index):
            manifest.choose("i", read, AMD64)
        else:
            assert manifest.kind_of(data)
        manifest.links("i", data)
    except (InvalidArgumentError, NotFoundError):
        pass
    listed(data, ("x",))


def config(data: bytes) -> None:
    image = Manifest(Descriptor(D, 2), (Descriptor(D, 3),))
    try:
        assert len(manifest.diff_ids("i", image, data, AMD64)) == 1
    except (InvalidArgumentError, NotFoundError):
        return


def signature(data: bytes) -> None:
    for blob, value in signed.carried(data):
        assert blob.size > 0
        signed.signatures(data, value, {})
    assert signed.signatures(data, b"x", {}) == []


def tar(data: bytes) -> None:
    raw = bytearray(data[1:])
    for head in range(0, len(raw) - 511, 512):  # an attacker's checksums are right
        raw[head + 148 : head + 156] = b" " * 8
        raw[head + 148 : head + 156] = b"%06o\0 " % sum(raw[head : head + 512])
    step = 1 + (data[0] if data else 0)
    assert parsed([bytes(raw)]) == parsed([bytes(raw[i : i + step]) for i in range(0, len(raw), step)])


def compressed(data: bytes) -> None:
    inflater, size = Inflater(), 0
    try:
        for piece in (data[:100], data[100:]):
            for inflated in inflater.feed(piece) if piece else ():
                size += len(inflated)
                if size > MAX_INFLATED:
                    return
        inflater.close()
    except (DataLossError, InvalidArgumentError):
        return


def archive(data: bytes) -> None:
    """The index of an archive, its manifest.json, and a blob, with zero bytes between them."""
    parts = dict(zip(("index.json", "manifest.json", "c"), data.split(b"\0"), strict=False))
    spooled = {}
    for number, (name, body) in enumerate((parts | {"oci-layout": b"{}"}).items()):
        path = place() / str(number)
        path.write_bytes(body)
        digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
        spooled[name] = SpooledFile(str(path), digest, len(body))
        spooled[f"blobs/{digest.replace(':', '/')}"] = spooled[name]
    try:
        assert images_of(Spooled(spooled, {}), AMD64, "")
    except (DataLossError, InvalidArgumentError, NotFoundError):
        return


def message(data: bytes) -> None:
    neighbours = Neighbours("n", "nats://127.0.0.1:1", Seals("s" * 32), 1.0)
    neighbours._silent_until = float("inf")
    told = Msg(Client(), subject="s", data=data)
    assert neighbours._opened(told, Question) is None
    assert neighbours._opened(told, Answer) is None


def _tarred() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as made:
        for name, body in (("manifest.json", b"[]"), ("a" * 120, b"x" * 700)):
            member = tarfile.TarInfo(name)
            member.size = len(body)
            made.addfile(member, io.BytesIO(body))
    return out.getvalue()


_CONFIG = {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [D]}}
_LOGINS = {"auths": {"reg.example": {"auth": "bWU6cHc=", "identitytoken": "t"}}}
TARGETS: dict[str, tuple[Callable[[bytes], None], list[bytes]]] = {
    "reference": (reference, [b"[::1]:5000/app@" + D.encode(), b"docker.io/library/a.b-c_d:v1"]),
    "headers": (
        headers,
        [
            b'Bearer realm="https://a/token",service="b",scope="repository:c:pull"\nBasic realm="x"',
            b"bytes=5-9\nWed, 21 Oct 2037 07:28:00 GMT\n30",
        ],
    ),
    "hosts": (
        hosts_toml,
        [
            (
                b'server = "https://s"\n[host."http://m/x"]\ncapabilities = ["pull", "resolve"]\nca = "c"\n'
                b'client = [["a", "b"]]\noverride_path = true\ndial_timeout = "1m3s"\nheader = {a = ["b"]}\n'
            )
        ],
    ),
    "logins": (logins, [json.dumps(_LOGINS).encode()]),
    "document": (document, [doc(), *(body for body, _ in MANIFESTS.values() if len(body) < 4096)]),
    "config": (config, [json.dumps(_CONFIG).encode()]),
    "signature": (signature, [doc(), b'{"critical":{"identity":{"docker-reference":"a"},"image":{}}}']),
    "tar": (tar, [b"\x40" + _tarred()]),
    "compressed": (compressed, [gzip.compress(_tarred()), zstandard.compress(_tarred())]),
    "archive": (
        archive,
        [
            json.dumps({"manifests": [{"digest": D, "size": 2}]}).encode() + b"\0\0",
            b'{}\0[{"Config":"c","Layers":[],"RepoTags":["a:b"]}]\0' + json.dumps(_CONFIG).encode(),
        ],
    ),
    "message": (message, [b"\x93\xa1a\x01\xa1b"]),
}
"""By name: who is given bytes, and what it begins with."""
