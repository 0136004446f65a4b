"""Errors cross a real gRPC socket as the class they were; unknown ones become INTERNAL."""

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Never

import anyio
import grpc
import pytest

from common import errors
from common.api.images.v1 import images_pb2, images_pb2_grpc
from common.rpc import channel, server, status
from tests.support.pace import patience

pytestmark = pytest.mark.anyio

RAISABLE = [cls for name, cls in sorted(errors.BY_REASON.items()) if name != "SlipwayError"]


Context = grpc.aio.ServicerContext[Any, Any]


class Servicer(images_pb2_grpc.ImagesServicer):
    def __init__(self) -> None:
        self.error: Exception | None = errors.InternalError("unset")
        """None: hang."""
        self.left = anyio.Event()
        """A call that hung has been cancelled."""
        self.step: Callable[[], Awaitable[None]] | None = None
        """What a call does to its end whoever leaves; then it hangs."""
        self.stepped = False

    async def Get(self, request: images_pb2.GetRequest, context: Context) -> images_pb2.Image:
        await self._end()

    async def Pull(
        self, request: images_pb2.PullRequest, context: Context
    ) -> AsyncIterator[images_pb2.PullProgress]:
        yield images_pb2.PullProgress(reference="one")
        await self._end()

    async def Load(
        self, request_iterator: AsyncIterator[images_pb2.LoadRequest], context: Context
    ) -> images_pb2.LoadResponse:
        async for _ in request_iterator:
            pass
        await self._end()

    async def _end(self) -> Never:
        if self.error:
            raise self.error
        if self.step:
            with anyio.CancelScope(shield=True):
                await self.step()
            self.stepped = True
        try:
            await anyio.sleep_forever()
        finally:
            self.left.set()
        raise AssertionError("slept for ever")


Served = tuple[Servicer, "images_pb2_grpc.ImagesAsyncStub", str]
"""A service with a client, and its socket."""


def without_the_other_calls() -> Servicer:
    return Servicer()  # type: ignore[abstract]  # in its stub only: the generated class refuses what nobody implements


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    servicer = without_the_other_calls()
    path = str(tmp_path / "s.sock")
    running = server.make(lambda s: images_pb2_grpc.add_ImagesServicer_to_server(servicer, s), path)
    await running.start()
    opened = channel.channel(path)
    yield servicer, images_pb2_grpc.ImagesStub(opened), path
    await opened.close()
    await running.stop(0)


@pytest.mark.parametrize("cls", RAISABLE)
async def test_each_error_arrives_as_itself(served: Served, cls: type[errors.SlipwayError]) -> None:
    servicer, stub, _ = served
    servicer.error = cls("field image: value 'x'")
    with pytest.raises(cls, match="field image: value 'x'") as caught:
        await stub.Get(images_pb2.GetRequest(), timeout=5)
    assert type(caught.value) is cls


@pytest.mark.parametrize("letter", ["x", "ü", "\n", "\ud800"])
async def test_a_message_of_any_size_keeps_its_ends_and_its_class(served: Served, letter: str) -> None:
    servicer, stub, _ = served
    servicer.error = errors.NotFoundError(f"field: {letter * 65536}: not found")
    with pytest.raises(errors.NotFoundError) as caught:
        await stub.Get(images_pb2.GetRequest(), timeout=5)
    assert caught.value.message.startswith("field: ")
    assert caught.value.message.endswith(": not found")
    for error in (servicer.error, servicer.error.bare()):  # what events, records and logs have of it
        assert str(error) == error.message == caught.value.message
        assert len(error.message.encode()) < 3 * errors.END_BYTES


async def test_an_error_in_a_stream_arrives_after_its_items(served: Served) -> None:
    servicer, stub, _ = served
    servicer.error = errors.DataLossError("digest")
    seen = []
    with pytest.raises(errors.DataLossError, match="digest"):
        async for item in stub.Pull(images_pb2.PullRequest(), timeout=5):
            seen.append(item.reference)
    assert seen == ["one"]


async def test_a_bug_is_internal_and_tells_no_secret(served: Served) -> None:
    servicer, stub, _ = served
    servicer.error = KeyError("password=hunter2")
    with pytest.raises(errors.InternalError) as caught:
        await stub.Get(images_pb2.GetRequest(), timeout=5)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("method", ["Get", "Pull", "Load"])
async def test_what_is_no_request_is_refused_and_is_no_bug(
    served: Served, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    _, _, path = served
    name = f"/slipway.images.v1.Images/{method}"

    async def requests() -> AsyncIterator[bytes]:
        yield b"\xff\xff"

    async with grpc.aio.insecure_channel(f"unix:{path}") as plain:
        with pytest.raises(grpc.aio.AioRpcError, match="request: Error parsing message") as caught:
            if method == "Load":
                upload: grpc.aio.StreamUnaryMultiCallable[bytes, bytes] = plain.stream_unary(name)
                await upload(requests(), timeout=5)
            else:
                call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = plain.unary_unary(name)
                await call(b"\xff\xff", timeout=5)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.parametrize(
    ("number", "cls"),
    [
        (errno.ENOSPC, errors.ResourceExhaustedError),
        (errno.EDQUOT, errors.ResourceExhaustedError),
        (errno.EIO, errors.UnavailableError),
        (errno.EROFS, errors.UnavailableError),
        (errno.ENOENT, errors.InternalError),
    ],
)
async def test_a_disk_that_is_full_or_fails_is_no_bug(
    served: Served, number: int, cls: type[errors.SlipwayError], caplog: pytest.LogCaptureFixture
) -> None:
    servicer, stub, _ = served
    servicer.error = OSError(number, os.strerror(number), "/var/lib/x")
    with pytest.raises(cls) as caught:
        await stub.Get(images_pb2.GetRequest(), timeout=5)
    bug = cls is errors.InternalError
    assert ("rpc.bug" in caplog.text) is bug
    assert (os.strerror(number) in caught.value.message) is not bug


async def test_the_traceback_of_an_internal_error_is_in_the_log(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    servicer, stub, _ = served
    cause = OSError(errno.ENOENT, "No such file", "/var/lib/x")
    servicer.error = errors.of_system(cause, "layer x")
    servicer.error.__cause__ = cause
    with pytest.raises(errors.InternalError, match=r"layer x: No such file \(/var/lib/x\)"):
        await stub.Get(images_pb2.GetRequest(), timeout=5)
    (told,) = [record for record in caplog.records if record.getMessage() == "rpc.bug"]
    assert told.exc_info
    assert told.exc_info[1] is servicer.error


async def test_a_plain_client_sees_the_grpc_code(served: Served) -> None:
    servicer, _, path = served
    servicer.error = errors.NotFoundError("image 'x' not found")
    async with grpc.aio.insecure_channel(f"unix:{path}") as plain:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await images_pb2_grpc.ImagesStub(plain).Get(images_pb2.GetRequest(), timeout=5)
    assert caught.value.code() is status.code_of(servicer.error)
    assert caught.value.details() == "image 'x' not found"


async def test_a_service_that_is_away_is_unavailable_long_before_the_deadline(tmp_path: Path) -> None:
    opened = channel.channel(str(tmp_path / "nobody.sock"), patience_s=0.3)
    stub = images_pb2_grpc.ImagesStub(opened)
    with anyio.fail_after(patience(20)), pytest.raises(errors.UnavailableError, match=r"nobody\.sock"):
        await stub.Get(images_pb2.GetRequest(), timeout=60)
    with anyio.fail_after(patience(20)), pytest.raises(errors.UnavailableError, match=r"nobody\.sock"):
        async for _ in stub.Pull(images_pb2.PullRequest()):
            pass
    await opened.close()


async def test_a_call_waits_for_a_service_that_comes(tmp_path: Path) -> None:
    servicer = without_the_other_calls()
    servicer.error = errors.NotFoundError("it came")
    path = str(tmp_path / "late.sock")
    opened = channel.channel(path)
    said: list[str] = []

    async def ask() -> None:
        with pytest.raises(errors.NotFoundError) as caught:
            await images_pb2_grpc.ImagesStub(opened).Get(images_pb2.GetRequest(), timeout=30)
        said.append(caught.value.message)

    async with anyio.create_task_group() as group:
        group.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        running = server.make(lambda s: images_pb2_grpc.add_ImagesServicer_to_server(servicer, s), path)
        await running.start()
    assert said == ["it came"]
    await opened.close()
    await running.stop(0)


async def test_a_deadline_that_passes_is_told_as_a_sentence(served: Served) -> None:
    servicer, stub, _ = served
    servicer.error = None
    with pytest.raises(errors.DeadlineExceededError, match="no answer within the deadline of this call"):
        await stub.Get(images_pb2.GetRequest(), timeout=0.1)


@pytest.mark.parametrize("method", ["Get", "Pull", "Load"])
async def test_a_scope_with_a_limit_ends_a_call_and_knows_its_own_end(served: Served, method: str) -> None:
    servicer, stub, _ = served
    servicer.error = None

    async def uploads() -> AsyncIterator[images_pb2.LoadRequest]:
        yield images_pb2.LoadRequest()

    with anyio.move_on_after(0.2) as scope:
        if method == "Get":
            await stub.Get(images_pb2.GetRequest(), timeout=60)
        elif method == "Pull":
            async for _ in stub.Pull(images_pb2.PullRequest(), timeout=60):
                pass
        else:
            await stub.Load(uploads(), timeout=60)
    assert scope.cancelled_caught
    with anyio.fail_after(patience(10)):
        await servicer.left.wait()


@pytest.mark.parametrize("method", ["Get", "Pull"])
async def test_a_call_whose_own_work_is_cancelled_is_no_answer(served: Served, method: str) -> None:
    """As when the channel closes that it asks another service by."""
    servicer, stub, _ = served
    servicer.error = None

    async def step() -> None:
        raise asyncio.CancelledError

    servicer.step = step
    with pytest.raises(errors.UnavailableError, match="cut off"):
        if method == "Get":
            await stub.Get(images_pb2.GetRequest(), timeout=10)
        else:
            async for _ in stub.Pull(images_pb2.PullRequest(), timeout=10):
                pass


@pytest.mark.parametrize("method", ["Get", "Pull", "Load"])
async def test_what_a_call_shields_is_done_to_its_end_when_the_client_goes(
    served: Served, method: str
) -> None:
    servicer, stub, _ = served
    servicer.error = None
    begun, go_on = anyio.Event(), anyio.Event()

    async def step() -> None:
        begun.set()
        await go_on.wait()

    async def uploads() -> AsyncIterator[images_pb2.LoadRequest]:
        yield images_pb2.LoadRequest()

    servicer.step = step
    async with anyio.create_task_group() as group:
        calls: dict[str, Callable[[], Any]] = {
            "Get": lambda: stub.Get(images_pb2.GetRequest(), timeout=60),
            "Pull": lambda: stub.Pull(images_pb2.PullRequest(), timeout=60).read(),
            "Load": lambda: stub.Load(uploads(), timeout=60),
        }
        group.start_soon(_awaited, calls[method])
        await begun.wait()
        group.cancel_scope.cancel()
    with anyio.move_on_after(0.3) as early:  # the time that the news of it takes
        await servicer.left.wait()
    assert early.cancelled_caught
    go_on.set()
    with anyio.fail_after(patience(10)):
        await servicer.left.wait()
    assert servicer.stepped


async def _awaited(call: Callable[[], Any]) -> None:
    await call()
