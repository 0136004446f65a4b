"""Documents and archives that somebody made up: each is read, or refused by an error of ours, and costs what the bounds say."""

import gzip
import io
import json
import tarfile
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st

from common.digest import Digest
from common.errors import DataLossError, InvalidArgumentError, NotFoundError, SlipwayError
from imaged import manifest, signed
from imaged.adapters.content_local import LocalContent
from imaged.adapters.referrers import listed
from imaged.adapters.registry import HttpRegistry
from imaged.archive.contents import images_of
from imaged.archive.inflate import Inflater
from imaged.leases import Needs
from imaged.manifest import INDEX_TYPES, LAYER_TYPES, MANIFEST_TYPES, Descriptor, Index, Manifest, Platform
from imaged.ports import Credentials, Spooled, SpooledFile
from imaged.reference import Reference
from imaged.resolving import resolve
from services.imaged.tests.conftest import BadRegistry, Tools
from services.imaged.tests.tartold import parsed

AMD64 = Platform("linux", "amd64")
DIGESTS = [
    "sha256:" + "ab" * 32,
    "sha512:" + "cd" * 64,
    "sha256:" + "AB" * 32,
    "sha256:..",
    "md5:1",
    "",
    "latest",
]
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from([*DIGESTS, *INDEX_TYPES, *MANIFEST_TYPES, *sorted(LAYER_TYPES)[:3]])
)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)
descriptors = st.fixed_dictionaries(
    {},
    optional={
        "mediaType": scalars,
        "digest": st.sampled_from(DIGESTS) | scalars,
        "size": st.integers(-2, 1 << 70) | scalars,
        "platform": st.fixed_dictionaries(
            {}, optional={"os": scalars, "architecture": scalars, "variant": scalars}
        ),
        "annotations": anything,
    },
)
documents = st.fixed_dictionaries(
    {},
    optional={
        "schemaVersion": st.sampled_from([2, 1, 0]) | scalars,
        "mediaType": scalars,
        "artifactType": scalars,
        "config": descriptors | anything,
        "layers": st.lists(descriptors, max_size=3) | anything,
        "manifests": st.lists(descriptors, max_size=3) | anything,
        "fsLayers": anything,
        "rootfs": st.fixed_dictionaries({}, optional={"diff_ids": st.lists(scalars, max_size=3) | anything}),
        "os": scalars,
        "architecture": scalars,
    },
)
DEEP = b'{"fsLayers":' + b"[" * 200_000
NO_TEXT = b'{"mediaType":"\xff\xfe"}'
bodies = documents.map(lambda document: json.dumps(document).encode()) | st.binary(max_size=200)


@given(bodies, st.sampled_from([*INDEX_TYPES, *MANIFEST_TYPES, "", "text/html"]))
@example(DEEP, "")
@example(NO_TEXT, "")
@example(b'{"mediaType":"\\ud800"}', "")
def test_any_document_is_read_or_refused(body: bytes, kind: str) -> None:
    try:
        read = manifest.parse("i", body, kind)
    except InvalidArgumentError as exc:
        assert len(exc.message) < 2000
    else:
        if isinstance(read, Index):
            for each in read.manifests:
                assert str(Digest.parse(each.digest)) == each.digest
                assert 0 <= each.size <= manifest.MAX_BLOB_BYTES
            try:
                manifest.choose("i", read, AMD64)
            except NotFoundError:
                return
        else:
            assert 0 <= read.config.size <= manifest.MAX_CONFIG_BYTES
            assert manifest.kind_of(body)
    try:
        manifest.links("i", body)
    except InvalidArgumentError:
        return


@given(bodies)
@example(DEEP)
@example(NO_TEXT)
def test_any_config_is_read_or_refused(body: bytes) -> None:
    image = Manifest(Descriptor(DIGESTS[0], 2), (Descriptor(DIGESTS[0], 3),))
    try:
        found = manifest.diff_ids("i", image, body, AMD64)
    except (InvalidArgumentError, NotFoundError):
        return
    assert len(found) == 1


@given(bodies)
@example(DEEP)
@example(NO_TEXT)
def test_any_signature_is_one_or_none(body: bytes) -> None:
    for blob, value in signed.carried(body):
        assert blob.size > 0
        signed.signatures(body, value, {})
    assert signed.signatures(body, b"", {}) == []
    assert signed.signatures(body, b"x", {}) == []
    listed(body, ("x",))


def saved(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, body in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(body)
            archive.addfile(member, io.BytesIO(body))
    return out.getvalue()


TAR = saved({"manifest.json": b"[]", "a" * 120: b"x" * 700, "blobs/sha256/" + "a" * 64: b"1"})


@given(
    st.lists(st.tuples(st.integers(0, len(TAR) - 1), st.binary(min_size=1, max_size=12)), max_size=6),
    st.integers(1, 1500),
)
def test_any_tar_means_the_same_however_it_comes(changes: list[tuple[int, bytes]], step: int) -> None:
    raw = bytearray(TAR)
    for at, patch in changes:
        raw[at : at + len(patch)] = patch
        head = at // 512 * 512
        raw[head + 148 : head + 156] = (
            b" " * 8
        )  # a header that was changed has the right checksum, as an attacker's has
        raw[head + 148 : head + 156] = b"%06o\0 " % sum(raw[head : head + 512])
    whole = bytes(raw)
    told = parsed([whole])
    assert told == parsed([whole[i : i + step] for i in range(0, len(whole), step)])
    if isinstance(told, list):
        assert all(not name.startswith("/") and ".." not in name.split("/") for (name, *_), _ in told)


PACKED = [gzip.compress(TAR), zstandard.compress(TAR), gzip.compress(TAR[:1000]) + gzip.compress(TAR[1000:])]


@given(
    st.sampled_from(PACKED),
    st.lists(st.tuples(st.integers(6, 400), st.integers(0, 255)), max_size=4),
    st.integers(6, 300),
)
def test_any_compressed_bytes_are_read_or_refused(
    packed: bytes, changes: list[tuple[int, int]], end: int
) -> None:
    raw = bytearray(packed)
    for at, value in changes:
        raw[at % len(raw)] = value
    inflater = Inflater()
    try:
        for piece in (bytes(raw[:end]), bytes(raw[end:])):
            for inflated in inflater.feed(piece) if piece else ():
                assert len(inflated) <= 64 << 20
        inflater.close()
    except (DataLossError, InvalidArgumentError):
        return


entries = st.fixed_dictionaries(
    {},
    optional={
        "Config": st.sampled_from(["c", "index.json", ""]) | scalars,
        "Layers": anything,
        "RepoTags": anything,
    },
)


@settings(max_examples=200)
@given(
    st.none() | documents,
    st.none() | st.lists(entries, max_size=3) | anything,
    st.binary(max_size=50) | documents.map(lambda document: json.dumps(document).encode()),
)
def test_any_archive_is_read_or_refused(top: dict[str, object] | None, docker: object, blob: bytes) -> None:
    import hashlib
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        digest = hashlib.sha256(blob).hexdigest()
        files = {f"blobs/sha256/{digest}": blob, "c": blob}
        if top is not None:
            entry = {"mediaType": INDEX_TYPES[0], "digest": f"sha256:{digest}", "size": len(blob)}
            files |= {"oci-layout": b"{}", "index.json": json.dumps({"manifests": [entry], **top}).encode()}
        if docker is not None:
            files["manifest.json"] = json.dumps(docker).encode()
        spooled = {}
        for number, (name, body) in enumerate(files.items()):
            path = Path(directory) / str(number)
            path.write_bytes(body)
            spooled[name] = SpooledFile(str(path), "sha256:" + hashlib.sha256(body).hexdigest(), len(body))
        try:
            found = images_of(Spooled(spooled, {}), AMD64, "")
        except (DataLossError, InvalidArgumentError, NotFoundError):
            return
        assert found


@pytest.mark.anyio
async def test_indexes_that_lead_to_one_another_end(
    registry: HttpRegistry, content: LocalContent, bad_registry: BadRegistry, tools: Tools
) -> None:
    """By tags a registry can let them: what a digest names cannot name itself."""
    asked = []

    def answer(h: BaseHTTPRequestHandler) -> None:
        asked.append(h.path)
        body, _ = tools.index_of()
        entry = {"mediaType": INDEX_TYPES[0], "digest": f"sha256:{len(asked):064}", "size": 1}
        body = json.dumps({"schemaVersion": 2, "mediaType": INDEX_TYPES[0], "manifests": [entry]}).encode()
        tools.reply(h, 200, body, {"Content-Type": INDEX_TYPES[0]})

    bad_registry.answer = answer
    reference = Reference.parse(f"{bad_registry.host}/a:v1")
    async with registry.repository(reference, Credentials()) as repository:
        with pytest.raises((DataLossError, InvalidArgumentError)):
            await resolve(repository, content, Needs(), reference, None, AMD64)
    assert len(asked) <= 6


@pytest.mark.anyio
async def test_indexes_within_indexes_are_refused_at_a_depth(
    registry: HttpRegistry, content: LocalContent, bad_registry: BadRegistry, tools: Tools
) -> None:
    bodies = [tools.image_of([]).manifest]
    for kind in [MANIFEST_TYPES[0]] + [INDEX_TYPES[0]] * 5:
        entry = {"mediaType": kind, "digest": tools.sha256(bodies[-1]), "size": len(bodies[-1])}
        bodies.append(
            json.dumps({"schemaVersion": 2, "mediaType": INDEX_TYPES[0], "manifests": [entry]}).encode()
        )
    named = {tools.sha256(body): body for body in bodies} | {"v1": bodies[-1]}
    bad_registry.answer = lambda h: tools.reply(h, 200, named[h.path.rpartition("/")[2]])
    reference = Reference.parse(f"{bad_registry.host}/a:v1")
    async with registry.repository(reference, Credentials()) as repository:
        with pytest.raises(InvalidArgumentError, match="indexes within indexes"):
            await resolve(repository, content, Needs(), reference, None, AMD64)


@pytest.mark.anyio
@pytest.mark.parametrize("stated", [True, False])
async def test_a_config_of_a_hundred_megabytes_is_not_fetched(
    registry: HttpRegistry, content: LocalContent, bad_registry: BadRegistry, tools: Tools, stated: bool
) -> None:
    """Told by its descriptor, and not told: then no more comes than was stated, and one piece."""
    huge, sent = 100 << 20, [0]
    over = threading.Event()
    if stated:
        image = json.loads(tools.image_of([tools.tar_of({"f": b"1"})]).manifest)
        image["config"]["size"] = huge
        with pytest.raises(InvalidArgumentError, match=f"config of {huge} bytes is larger"):
            manifest.parse("i", json.dumps(image).encode(), "")
        return

    def answer(h: BaseHTTPRequestHandler) -> None:
        h.send_response(200)
        h.end_headers()  # without a length: until the connection closes
        h.close_connection = True
        try:
            while sent[0] < huge:
                sent[0] += h.wfile.write(bytes(64 << 10))
        except OSError:
            pass  # hung up
        over.set()

    bad_registry.answer = answer
    reference = Reference.parse(f"{bad_registry.host}/a:v1")
    wanted = Descriptor("sha256:" + "0" * 64, 2, "application/vnd.oci.image.config.v1+json")
    async with registry.repository(reference, Credentials()) as repository, content.ingest(wanted) as ingest:
        with pytest.raises(SlipwayError):
            await repository.fetch(wanted, ingest.partial)
    assert over.wait(10)
    assert sent[0] < 32 << 20, sent
