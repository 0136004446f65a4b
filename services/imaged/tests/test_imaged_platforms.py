"""Images of several platforms, pulled whole, pushed, saved and loaded: the digest stays that of their index."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import urllib3
from msgspec.structs import replace

from common.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError, UnavailableError
from imaged.adapters.content_local import LocalIngest
from imaged.adapters.spool import Spools
from imaged.loading import Loads
from imaged.manifest import Descriptor, Manifest, Platform, diff_ids, local_platform, platform_of
from imaged.ports import Credentials
from imaged.pull import KEPT_AT_ONCE, NO_CHOICE, Choice
from imaged.record import ImageRecord
from imaged.saving import Saves
from imaged.transfer import Transfer, Transfers
from imaged.tree import MAX_BLOBS, read_tree
from services.imaged.tests.conftest import ImageParts, Node, RealRegistry, Tools

NOBODY = Credentials()
ALL = Choice(every=True)
FOREIGN = Platform("linux", "s390x")
ELSE = Choice(platform="linux/s390x")
registry_test = pytest.mark.integration


@dataclass
class Wide:
    """An image for this platform and another, with what BuildKit says of the build, at a registry."""

    name: str
    digest: str
    own: str
    """Digests of manifests."""
    other: str
    other_config: str
    host: str


@dataclass
class Bench:
    node: Node
    transfers: Transfers
    loads: Loads
    saves: Saves

    async def pull(self, name: str, choice: Choice = NO_CHOICE) -> ImageRecord:
        moments = [p async for p in self.node.images.pull(name, NOBODY, choice=choice)]
        assert moments[-1].image is not None
        return moments[-1].image

    async def push(self, name: str, target: str, choice: Choice = NO_CHOICE) -> Transfer:
        return [moment async for moment in self.transfers.push(name, target, NOBODY, choice)][-1]

    async def save(self, name: str, choice: Choice = NO_CHOICE) -> bytes:
        return b"".join([piece async for piece in self.saves.save([name], NOBODY, choice)])

    async def load(self, body: bytes, platform: str = "") -> ImageRecord:
        async def pieces() -> AsyncIterator[bytes]:
            yield body

        [(record, _)] = await self.loads.load(pieces(), name="", replace=False, platform=platform)
        return record

    async def clear(self) -> None:
        for record in self.node.images.catalog.all():
            await self.node.images.remove(record.id)
        assert (self.node.content.all(), self.node.layers.held) == ([], set())


@pytest.fixture
def bench(node: Node, transfers: Transfers) -> Bench:
    images, content = node.images, node.content
    spools = Spools(content.ingests, 1 << 30)
    loads = Loads(spools, images.catalog, images.leases, content, images.bringing, local_platform())
    return Bench(node, transfers, loads, Saves(images.catalog, images.leases, content, images.whole))


def two(tools: Tools) -> tuple[ImageParts, ImageParts]:
    """An image for this platform and one for another, with a layer that both have."""
    shared, mine, theirs = (tools.tar_of({name: name.encode() * 5000}) for name in ("base", "own", "other"))
    own = tools.image_of([shared, mine])
    return own, tools.image_of([shared, theirs], architecture=FOREIGN.architecture)


def put(
    registry: RealRegistry, tools: Tools, path: str, own: ImageParts, other: ImageParts, *unknown: ImageParts
) -> Wide:
    """Their index at a registry, with what is for no platform."""
    here = {"os": "linux", "architecture": local_platform().architecture}
    nowhere = {"os": "unknown", "architecture": "unknown"}
    entries = [(own, here), (other, {"os": "linux", "architecture": FOREIGN.architecture})]
    entries += [(image, nowhere) for image in unknown]
    for image, _ in entries:
        registry.push(path, image.digest, image)
    index, kind = tools.index_of(*entries)
    name = registry.put_manifest(path, "v1", index, kind)
    return Wide(name, tools.sha256(index), own.digest, other.digest, other.config_digest, registry.host)


@pytest.fixture
def wide(real_registry: RealRegistry, tools: Tools) -> Wide:
    attested = tools.image_of([])
    statement = b'{"predicateType": "https://slsa.dev/provenance/v0.2"}'
    document = json.loads(attested.manifest)
    document["layers"] = [
        {
            "mediaType": "application/vnd.in-toto+json",
            "digest": tools.sha256(statement),
            "size": len(statement),
        }
    ]
    attested.manifest = json.dumps(document).encode()
    attested.blobs[tools.sha256(statement)] = statement
    return put(real_registry, tools, "platforms/wide", *two(tools), attested)


@pytest.fixture
def pair(real_registry: RealRegistry, tools: Tools) -> Wide:
    """Without a word of the build: all of it can be here by pulls of its platforms."""
    return put(real_registry, tools, "platforms/pair", *two(tools))


def digest_at(host: str, path: str, name: str) -> str:
    kinds = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json"
    answer = urllib3.request("HEAD", f"http://{host}/v2/{path}/manifests/{name}", headers={"Accept": kinds})
    assert answer.status == 200
    return answer.headers["Docker-Content-Digest"]


@pytest.mark.anyio
@registry_test
async def test_all_platforms_are_pulled_pushed_saved_and_loaded_as_one_digest(
    bench: Bench, wide: Wide
) -> None:
    record = await bench.pull(wide.name, ALL)
    assert record.manifest_digest == wide.own
    assert record.platform == ""
    assert len(bench.node.layers.applied) == 2  # only what this node can run is unpacked
    assert {wide.digest, wide.own, wide.other, wide.other_config} <= record.blobs
    assert record.blobs == set(bench.node.content.all())
    pushed = await bench.push(wide.name, f"{wide.host}/platforms/far:v1")
    assert (pushed.digest, pushed.left_out) == (wide.digest, [])
    assert digest_at(wide.host, "platforms/far", "v1") == wide.digest
    assert digest_at(wide.host, "platforms/far", wide.other) == wide.other
    saved = await bench.save(wide.name)
    await bench.clear()
    loaded = await bench.load(saved)
    assert (loaded.id, loaded.documents, loaded.others) == (record.id, record.documents, record.others)
    assert await bench.save(loaded.repo_tags[0], ALL) == saved
    assert (await bench.push(loaded.id, f"{wide.host}/platforms/again:v1", ALL)).digest == wide.digest
    await bench.clear()


@pytest.mark.anyio
@registry_test
async def test_one_platform_is_told_as_such_and_the_others_come_when_asked_for(
    bench: Bench, wide: Wide, tools: Tools
) -> None:
    first = await bench.pull(wide.name)
    assert first.others == ()
    pushed = await bench.push(wide.name, f"{wide.host}/platforms/one:v1")
    assert (pushed.digest, pushed.left_out) == (wide.own, ["linux/s390x"])
    with pytest.raises(FailedPreconditionError, match=r"not all platforms .* pull it with --all-platforms"):
        await bench.push(wide.name, f"{wide.host}/platforms/all:v1", ALL)
    with pytest.raises(NotFoundError, match="nothing of it for linux/s390x is here"):
        await bench.save(wide.name, ELSE)
    with pytest.raises(NotFoundError, match="no manifest for linux/riscv64"):
        await bench.save(wide.name, Choice(platform="linux/riscv64"))
    applied = list(bench.node.layers.applied)
    record = await bench.pull(wide.name, ALL)
    assert (record.id, bench.node.layers.applied) == (first.id, applied)
    assert (await bench.push(wide.name, f"{wide.host}/platforms/all:v1", ALL)).digest == wide.digest
    # whoever pulls the usual way afterwards takes nothing away
    assert (await bench.pull(wide.name)).others == record.others
    assert bench.node.images.catalog.find(wide.name).others == record.others


@pytest.mark.anyio
@registry_test
@pytest.mark.parametrize("kind", ["image", "artifact"])
async def test_of_many_blobs_a_few_are_open_at_once(
    bench: Bench, real_registry: RealRegistry, tools: Tools, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    many = tools.image_of(
        [tools.tar_of({str(n): b"m"}) for n in range(3 * KEPT_AT_ONCE)], architecture=FOREIGN.architecture
    )
    own = tools.image_of([])
    if kind == "artifact":
        own.manifest = own.manifest.replace(b"oci.image.config", b"cncf.helm.config")
    name = put(real_registry, tools, f"platforms/many-{kind}", own, many).name
    content, counts = bench.node.content, [0]
    ingest, opened = content.ingest, 0

    @asynccontextmanager
    async def counted(blob: Descriptor) -> AsyncIterator[LocalIngest]:
        nonlocal opened
        opened += 1
        counts.append(opened)
        try:
            async with ingest(blob) as found:
                yield found
        finally:
            opened -= 1

    await bench.pull(name)
    monkeypatch.setattr(content, "ingest", counted)
    record = await bench.pull(name, ALL)
    assert set(many.blobs) <= record.blobs
    assert max(counts) == KEPT_AT_ONCE


@pytest.mark.anyio
@registry_test
async def test_all_platforms_stay_though_the_first_pull_of_them_was_not_recorded(
    bench: Bench, wide: Wide, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object, **__: object) -> ImageRecord:
        raise UnavailableError("Redis is away")

    await bench.pull(wide.name)
    with monkeypatch.context() as patch:
        patch.setattr(bench.node.images.catalog, "keep", away)
        with pytest.raises(UnavailableError):
            await bench.pull(wide.name, ALL)
    record = await bench.pull(wide.name, ALL)
    assert {wide.other, wide.other_config} <= record.blobs
    assert await bench.node.content.sweep(lambda: bench.node.images.leases.needed().digests, 0) == {}
    assert (await bench.push(wide.name, f"{wide.host}/platforms/late:v1", ALL)).digest == wide.digest


@pytest.mark.anyio
@registry_test
async def test_all_platforms_stay_though_another_image_that_had_one_goes(bench: Bench, pair: Wide) -> None:
    await bench.pull(pair.name)
    await bench.pull(pair.name, ELSE)
    record = await bench.pull(pair.name, ALL)
    assert {pair.other, pair.other_config} <= record.blobs
    await bench.node.images.remove(pair.other_config)
    assert await bench.save(record.id, ALL)


@pytest.mark.anyio
@registry_test
async def test_what_is_being_saved_stays_though_the_image_that_owns_a_part_goes(
    bench: Bench, pair: Wide
) -> None:
    record = await bench.pull(pair.name)
    await bench.pull(pair.name, ELSE)
    whole = await bench.save(record.id)
    saving = bench.saves.save([record.id], NOBODY)
    began = await anext(saving)
    await bench.node.images.remove(pair.other_config)
    assert began + b"".join([piece async for piece in saving]) == whole


@pytest.mark.anyio
@registry_test
async def test_what_is_being_pushed_stays_though_the_image_that_owns_a_part_goes(
    bench: Bench, pair: Wide, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = await bench.pull(pair.name)
    await bench.pull(pair.name, ELSE)
    send = bench.transfers._send

    async def later(*asked: Any) -> None:
        await bench.node.images.remove(pair.other_config)
        assert bench.node.content.has(pair.other_config)
        await send(*asked)

    monkeypatch.setattr(bench.transfers, "_send", later)
    assert (await bench.push(record.id, f"{pair.host}/kept/pair:v1")).digest == pair.digest
    assert not bench.node.content.has(pair.other_config)


@pytest.mark.anyio
@registry_test
async def test_a_chosen_platform_is_pulled_pushed_saved_and_loaded(bench: Bench, wide: Wide) -> None:
    other = await bench.pull(wide.name, ELSE)
    assert (other.id, other.platform, other.manifest_digest) == (
        wide.other_config,
        "linux/s390x",
        wide.other,
    )
    own = await bench.pull(wide.name, ALL)
    assert (own.manifest_digest, own.repo_tags) == (wide.own, (wide.name,))
    by_digest = f"{wide.host}/platforms/wide@{wide.digest}"
    assert bench.node.images.catalog.find(by_digest).id == own.id
    pushed = await bench.push(wide.name, f"{wide.host}/platforms/chosen:v1", ELSE)
    assert (pushed.digest, pushed.left_out) == (wide.other, [])
    mine = str(local_platform())
    pushed = await bench.push(wide.name, f"{wide.host}/platforms/chosen:own", Choice(platform=mine))
    assert (pushed.digest, pushed.left_out) == (wide.own, [])
    named = [d for r in bench.node.images.catalog.all() for d in r.repo_digests if "/chosen@" in d]
    assert named == [f"{wide.host}/platforms/chosen@{wide.own}"]
    saved = await bench.save(wide.name, ELSE)
    await bench.clear()
    with pytest.raises(NotFoundError, match="it is for linux/s390x"):
        await bench.load(saved)
    loaded = await bench.load(saved, "linux/s390x")
    assert (loaded.id, loaded.platform, loaded.others) == (wide.other_config, "linux/s390x", ())
    await bench.clear()


@pytest.mark.anyio
@registry_test
@pytest.mark.parametrize("what", ["variant", "silent", "artifact"])
async def test_what_this_node_itself_would_choose_is_of_no_other_platform(
    bench: Bench, wide: Wide, real_registry: RealRegistry, tools: Tools, what: str
) -> None:
    name, choice = wide.name, ELSE
    if what == "variant":  # of which there is none: the usual one runs there, too
        choice = Choice(platform=f"{local_platform().os}/{local_platform().architecture}/v99")
    elif what == "silent":
        image = tools.image_of([tools.tar_of({"silent": b"s"})], os="", architecture="")
        name = real_registry.push("platforms/silent", "v1", image)
    else:
        chart = tools.image_of([])
        chart.manifest = chart.manifest.replace(b"oci.image.config", b"cncf.helm.config")
        name = real_registry.push("platforms/chart", "v1", chart)
    record = await bench.pull(name, choice)
    assert record.platform == ""
    # it was marked once; also then, it is this node's from its next pull on
    await bench.node.records.update(record.id, lambda r: replace(r, platform=choice.platform))
    assert (await bench.pull(name)).platform == ""
    pushed = await bench.push(name, f"{wide.host}/platforms/native:{what}", choice)
    assert (pushed.digest, pushed.left_out) == (record.manifest_digest, [])
    saved = await bench.save(name, choice)
    await bench.clear()
    assert (await bench.load(saved, choice.platform)).platform == ""
    await bench.clear()


@pytest.mark.anyio
@registry_test
async def test_an_index_is_made_of_images_at_registries(
    bench: Bench, wide: Wide, real_registry: RealRegistry, tools: Tools
) -> None:
    at = f"{wide.host}/platforms/wide"

    async def make(name: str, *sources: str) -> Transfer:
        given = [(source, NOBODY) for source in sources]
        return [m async for m in bench.transfers.index(f"{wide.host}/platforms/{name}", given, NOBODY)][-1]

    made = await make("made:v1", f"{at}@{wide.own}", f"{at}@{wide.other}", f"{at}@{wide.own}")
    assert digest_at(wide.host, "platforms/made", "v1") == made.digest
    assert bench.node.content.all() == []
    # of an index, all platforms come along, with what is said of them; the same again is the same
    whole = await make("made:v2", wide.name, f"{at}@{wide.other}")
    assert whole.digest == (await make("other:v1", wide.name)).digest != made.digest
    record = await bench.pull(f"{wide.host}/platforms/made:v1", ALL)
    assert (record.manifest_digest, wide.other in record.blobs) == (wide.own, True)
    assert (await bench.push(record.id, f"{wide.host}/platforms/made:v3")).digest == made.digest
    twin = real_registry.push("platforms/twin", "v1", tools.image_of([tools.tar_of({"twin": b"t"})]))
    with pytest.raises(InvalidArgumentError, match=f"two of its images are for {local_platform()}"):
        await make("made:v4", twin, wide.name)
    chart = tools.image_of([])
    chart.manifest = chart.manifest.replace(b"oci.image.config", b"cncf.helm.config")
    with pytest.raises(InvalidArgumentError, match="is an artifact"):
        await make("made:v4", real_registry.push("platforms/chart", "v1", chart))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("linux/arm64", "linux/arm64/v8"),
        ("arm64", "linux/arm64/v8"),
        ("linux/aarch64", "linux/arm64/v8"),
        ("linux/arm", "linux/arm/v7"),
        ("linux/arm/v6", "linux/arm/v6"),
        ("Linux/x86_64", "linux/amd64"),
        ("linux/amd64/v2", "linux/amd64/v2"),
        ("windows/amd64", "windows/amd64"),
    ],
)
def test_a_platform_has_one_name(text: str, found: str) -> None:
    assert str(platform_of(text)) == found


def test_who_asked_for_a_platform_is_not_told_that_it_is_this_node_s() -> None:
    body = json.dumps({"os": "linux", "architecture": "m68k", "rootfs": {}}).encode()
    read = Manifest(Descriptor("sha256:" + "0" * 64, len(body)), ())
    own = local_platform()
    with pytest.raises(NotFoundError, match=r"i: it is for linux/m68k, and linux/s390x was asked for$"):
        diff_ids("i", read, body, FOREIGN)
    with pytest.raises(NotFoundError, match=rf"i: it is for linux/m68k, this node is {own}$"):
        diff_ids("i", read, body, own)


@pytest.mark.parametrize("text", ["", "a/b/c/d", "linux/", "lin ux/amd64", "linux/amd64\n", "all\0"])
def test_what_is_no_platform_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgumentError, match="want OS/ARCHITECTURE"):
        platform_of(text)


def index(*digests: str) -> bytes:
    entries = [{"digest": digest, "size": 1} for digest in digests]
    return json.dumps({"schemaVersion": 2, "manifests": entries}).encode()


def blobs(count: int) -> bytes:
    entries = [{"digest": f"sha256:{n:064x}", "size": 1} for n in range(count)]
    return json.dumps({"schemaVersion": 2, "layers": entries}).encode()


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("documents", "told"),
    [
        ([index("sha256:" + f"{n + 1:064x}") for n in range(4)], "deeper than 3"),
        ([index(*(f"sha256:{n:064x}" for n in range(1, 1002))), *[blobs(0)] * 1001], "more than 1000 manifests"),
        ([index(*(f"sha256:{n:064x}" for n in range(1, 10))), *[b" " * (4 << 20) + blobs(0)] * 9], "bytes of"),
        ([blobs(MAX_BLOBS + 1)], "more than 10000 blobs"),
    ],
)  # fmt: skip
async def test_what_leads_to_too_much_is_refused(documents: list[bytes], told: str) -> None:
    async def read(digest: str) -> bytes:
        return documents[int(digest.partition(":")[2], 16)]

    with pytest.raises(InvalidArgumentError, match=told):
        await read_tree("i", "sha256:" + "0" * 64, read)
