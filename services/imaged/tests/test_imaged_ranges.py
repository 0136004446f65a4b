"""Large blobs in pieces: against a registry that answers ranges as it likes, and a real one."""

import os
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import anyio
import pytest

from common.digest import Digest
from common.errors import DataLossError, ResourceExhaustedError, SlipwayError, UnknownError
from common.sys import linux
from imaged.adapters.blobs import PIECE_BYTES
from imaged.adapters.content_local import LocalContent
from imaged.adapters.ingest import PAGE_BYTES, PartialFile
from imaged.adapters.registry import HttpRegistry
from imaged.manifest import Descriptor
from imaged.ports import Credentials
from imaged.reference import Reference
from services.imaged.tests.conftest import BadRegistry, RealRegistry, Tools
from tests.support.pace import patience

pytestmark = pytest.mark.anyio
BODY = os.urandom(1 << 20) * 70
PIECES = -(-len(BODY) // PIECE_BYTES)


Spoil = Callable[[BaseHTTPRequestHandler, int, int], object]


def proper(_h: BaseHTTPRequestHandler, _start: int, _end: int) -> bool:
    return False


class Ranged:
    """Answers ranges of one blob; `spoil` may answer instead, and says so."""

    def __init__(self, tools: Tools) -> None:
        self.asked: list[tuple[int, int]] = []
        self.sent = 0
        self.most = self.now = 0
        self.spoil: Spoil = proper
        self._lock = threading.Lock()
        self._reply = tools.reply

    def __call__(self, h: BaseHTTPRequestHandler) -> None:
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", h.headers.get("Range", "bytes=0-"))
        assert found
        start, end = int(found[1]), int(found[2] or len(BODY) - 1) + 1
        with self._lock:
            self.asked.append((start, end))
            self.now += 1
            self.most = max(self.most, self.now)
        try:
            if not self.spoil(h, start, end):
                self.send(h, start, end)
        finally:
            with self._lock:
                self.now -= 1

    def send(
        self, h: BaseHTTPRequestHandler, start: int, end: int, *, but: int = 0, claimed: str = ""
    ) -> None:
        """A proper answer, but for so many bytes at its end that do not come."""
        headers = {"Content-Length": str(end - start)}
        if "Range" in h.headers:
            headers["Content-Range"] = claimed or f"bytes {start}-{end - 1}/{len(BODY)}"
        self._reply(h, 206 if "Range" in h.headers else 200, BODY[start : end - but], headers)
        self.sent += end - but - start
        h.close_connection = bool(but)


@pytest.fixture
def ranged(tools: Tools, bad_registry: BadRegistry) -> Ranged:
    made = Ranged(tools)
    bad_registry.answer = made
    return made


@pytest.fixture
def wanted(tools: Tools) -> Descriptor:
    return Descriptor(tools.sha256(BODY), len(BODY))


class Fetch:
    """Of the blob, from the stand-in."""

    def __init__(self, registry: HttpRegistry, content: LocalContent, wanted: Descriptor, host: str) -> None:
        self.registry, self.content, self._wanted = registry, content, wanted
        self._reference = Reference.parse(f"{host}/ranges/app:v1")

    async def __call__(self) -> None:
        async with (
            self.registry.repository(self._reference, Credentials()) as repository,
            self.content.ingest(self._wanted) as ingest,
        ):
            await repository.fetch(self._wanted, ingest.partial)
            await ingest.commit()
        assert Path(self.content.path(self._wanted.digest)).read_bytes() == BODY


@pytest.fixture
def fetch(
    registry: HttpRegistry, content: LocalContent, wanted: Descriptor, bad_registry: BadRegistry
) -> Fetch:
    return Fetch(registry, content, wanted, bad_registry.host)


async def test_pieces_come_beside_each_other_and_each_once(
    fetch: Fetch, ranged: Ranged, registry: HttpRegistry
) -> None:
    barrier = threading.Barrier(PIECES - 2)

    def together(h: BaseHTTPRequestHandler, start: int, end: int) -> bool:
        if start and end < len(BODY):
            # the first answer has to begin before the others are asked for
            barrier.wait(patience(10))
        return False

    ranged.spoil = together
    await fetch()
    assert sorted(ranged.asked) == [
        (at, min(at + PIECE_BYTES, len(BODY))) for at in range(0, len(BODY), PIECE_BYTES)
    ]
    assert ranged.most <= registry.parallel_ranges
    assert ranged.sent == len(BODY)


async def test_a_stream_where_the_setting_says_so(
    fetch: Fetch, ranged: Ranged, registry: HttpRegistry
) -> None:
    registry.parallel_ranges = 1
    await fetch()
    assert ranged.asked == [(0, len(BODY))]


async def test_a_host_that_ignores_ranges_is_asked_once(fetch: Fetch, ranged: Ranged, tools: Tools) -> None:
    ranged.spoil = lambda h, *_: tools.reply(h, 200, BODY) is None
    await fetch()
    assert len(ranged.asked) == 1


@pytest.mark.parametrize(
    "claimed",
    [
        "bytes 1-16777216/73400320",
        "bytes 0-16777214/73400320",
        "bytes 0-16777215/73400321",
        "",
        "0-1",
        "bytes */5",
    ],
)
async def test_a_host_with_other_ranges_than_asked_for_gives_a_stream(
    fetch: Fetch, ranged: Ranged, claimed: str
) -> None:
    def wrong(h: BaseHTTPRequestHandler, start: int, end: int) -> bool:
        if "Range" in h.headers:
            ranged.send(h, start, end, claimed=claimed or " ")
            return True
        return False

    ranged.spoil = wrong
    await fetch()
    assert ranged.asked[-1] == (0, len(BODY))
    assert len(ranged.asked) == 2


@pytest.mark.parametrize("how", ["cut", "wrong range", "whole", "503", "416", "more"])
async def test_a_piece_that_fails_is_retried_alone(
    fetch: Fetch, ranged: Ranged, tools: Tools, how: str
) -> None:
    spoilt: list[int] = []
    chosen = (2 * PIECE_BYTES, 3 * PIECE_BYTES)

    def spoil(h: BaseHTTPRequestHandler, start: int, end: int) -> bool:
        if (start, end) != chosen or spoilt:
            return False
        spoilt.append(start)
        if how == "cut":
            ranged.send(h, start, end, but=PIECE_BYTES - (5 << 20) - 17)
        elif how == "wrong range":
            ranged.send(h, start, end, claimed=f"bytes 0-{PIECE_BYTES - 1}/{len(BODY)}")
        elif how == "more":
            headers = {
                "Content-Range": f"bytes {start}-{end - 1}/{len(BODY)}",
                "Content-Length": str(PIECE_BYTES + (2 << 20)),
            }
            tools.reply(h, 206, BODY[start : end + (2 << 20)], headers)
            h.close_connection = True
        else:
            tools.reply(h, int(how) if how != "whole" else 200, BODY if how == "whole" else b"")
            h.close_connection = True
        return True

    ranged.spoil = spoil
    await fetch()
    others = [asked for asked in ranged.asked if not chosen[0] <= asked[0] < chosen[1]]
    assert len(others) == len(set(others)) == PIECES - 1
    again = [asked for asked in ranged.asked if asked not in others]
    assert spoilt
    assert again[-1][0] >= chosen[0]
    if how == "cut":
        assert again == [chosen, (chosen[0] + (5 << 20) + 17, chosen[1])]
        assert ranged.sent == len(BODY)


async def test_a_host_that_allows_few_requests_gets_few(fetch: Fetch, ranged: Ranged, tools: Tools) -> None:
    def busy(h: BaseHTTPRequestHandler, start: int, end: int) -> bool:
        if ranged.now > 2:
            tools.reply(h, 429, headers={"Retry-After": "0"})
            return True
        return False

    ranged.spoil = busy
    await fetch()


async def test_a_host_that_is_always_busy_after_the_first_piece(
    fetch: Fetch, ranged: Ranged, tools: Tools
) -> None:
    ranged.spoil = lambda h, start, _: start and tools.reply(h, 429) is None
    with pytest.raises(ResourceExhaustedError, match="429"):
        await fetch()
    ranged.asked.clear()
    ranged.spoil = proper
    await fetch()
    assert all(start for start, _ in ranged.asked[1:])
    assert ranged.sent <= len(BODY) + PAGE_BYTES


async def test_wrong_bytes_are_found_by_the_digest(
    fetch: Fetch, ranged: Ranged, tools: Tools, content: LocalContent
) -> None:
    def lie(h: BaseHTTPRequestHandler, start: int, end: int) -> bool:
        if start != PIECE_BYTES:
            return False
        headers = {"Content-Range": f"bytes {start}-{end - 1}/{len(BODY)}"}
        tools.reply(h, 206, bytes(end - start), headers)
        return True

    ranged.spoil = lie
    with pytest.raises(DataLossError, match="what came has"):
        await fetch()
    assert content.all() == []
    (left,) = content.ingests.iterdir()
    assert left.stat().st_size == 0


async def test_what_a_mirror_did_not_give_the_registry_gives(
    fetch: Fetch, ranged: Ranged, tools: Tools, bad_registry: BadRegistry, tmp_path: Path
) -> None:
    mirror = tools.bad_registry()
    poor = Ranged(tools)
    poor.spoil = lambda h, start, _: start >= 2 * PIECE_BYTES and tools.reply(h, 404) is None
    mirror.answer = poor
    directory = tmp_path / "certs.d" / bad_registry.host
    directory.mkdir(parents=True)
    (directory / "hosts.toml").write_text(
        f'server = "http://{bad_registry.host}"\n[host."http://{mirror.host}"]\n'
    )
    try:
        await fetch()
    finally:
        mirror.close()
    assert all(start >= PIECE_BYTES for start, _ in ranged.asked)
    assert ranged.asked


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[[str, str], LocalContent]]:
    """A content store on a file system of its own."""
    place = tmp_path / "mounted"
    place.mkdir()
    made = []

    def mount(kind: str, options: str) -> LocalContent:
        linux.mount(kind, str(place), kind, 0, options)
        made.append(place)
        return LocalContent(place / "imaged")

    yield mount
    for each in made:
        linux.umount(str(each), linux.MNT_DETACH)


@pytest.mark.root
async def test_where_holes_do_not_show_bytes_are_appended(
    fetch: Fetch, ranged: Ranged, mounted: Callable[[str, str], LocalContent]
) -> None:
    fetch.content = mounted("ramfs", "")
    await fetch.content.load()
    await fetch()
    assert ranged.asked == [(0, len(BODY))]


@pytest.mark.root
async def test_a_full_disk_ends_all_pieces_and_is_told(
    fetch: Fetch, ranged: Ranged, mounted: Callable[[str, str], LocalContent]
) -> None:
    fetch.content = mounted("tmpfs", "size=40m")
    await fetch.content.load()
    with pytest.raises(ResourceExhaustedError, match="No space left"):
        await fetch()


async def test_cancel_does_not_wait_for_a_host_that_is_silent(
    fetch: Fetch, ranged: Ranged, bad_registry: BadRegistry
) -> None:
    asked = anyio.Event()
    token = anyio.lowlevel.current_token()

    def silent(h: BaseHTTPRequestHandler, start: int, end: int) -> bool:
        if start:
            anyio.from_thread.run_sync(asked.set, token=token)
            bad_registry.release.wait(30)
        return False

    ranged.spoil = silent
    fetch.registry._limits = type(fetch.registry._limits)(stall_timeout_s=30)
    with anyio.fail_after(patience(5)):
        async with anyio.create_task_group() as group:
            group.start_soon(fetch)
            await asked.wait()
            group.cancel_scope.cancel()
    assert fetch.registry.fetches.borrowed_tokens == 0


async def test_silence_in_one_piece_is_a_failure_of_the_blob(
    fetch: Fetch, ranged: Ranged, bad_registry: BadRegistry
) -> None:
    ranged.spoil = lambda _, start, __: start and bad_registry.release.wait(30)
    with pytest.raises(UnknownError, match="stalled"):
        await fetch()


async def test_a_real_registry_gives_pieces(
    real_registry: RealRegistry,
    registry: HttpRegistry,
    content: LocalContent,
    wanted: Descriptor,
    tools: Tools,
) -> None:
    real_registry.push("ranges/app", "v1", tools.image_of([BODY], compression="none"))
    await Fetch(registry, content, wanted, real_registry.host)()


def test_extents_near_a_hole_are_not_counted_on(tmp_path: Path, tools: Tools) -> None:
    path, digest = tmp_path / "part", Digest.parse(tools.sha256(BODY))
    part = PartialFile(path, digest, len(BODY))
    for at in (0, 32 << 20, 64 << 20):
        part.write(BODY[at : at + (1 << 20) + 5], at)
    part.close()
    again = PartialFile(path, digest, len(BODY))
    assert again.missing() == [
        (1 << 20, 32 << 20),
        (33 << 20, 64 << 20),
        ((65 << 20) + 5, len(BODY)),
    ]
    for start, end in again.missing():
        again.write(BODY[start:end], start)
    again.verify()
    again.close()
    path.write_bytes(BODY[:-1] + b"!" if BODY[-1:] != b"!" else BODY[:-1] + b"?")
    bad = PartialFile(path, digest, len(BODY))
    assert bad.missing() == []
    with pytest.raises(SlipwayError, match="what came has"):
        bad.verify()
    assert bad.missing() == [(0, len(BODY))]
    bad.close()
