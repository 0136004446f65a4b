"""A gRPC server on a Unix socket: trace, log, errors and peer check in one interceptor."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any, Self

import anyio
import grpc
from google.protobuf.message import DecodeError
from opentelemetry import propagate
from opentelemetry.trace import SpanKind

from common import errors
from common.observe import log as logs
from common.observe.trace import span
from common.rpc import caller, meter, status
from common.rpc.plain import MAX_MESSAGE_BYTES, OPTIONS

_QUIET = (
    "List",
    "Get",
    "Status",
    "Stats",
    "Version",
    "Usage",
    "Watch",
    "FsInfo",
    "Stream",
)
_BESIDE = ("/grpc.health", "/opentelemetry")
"""Calls about the service itself; a span for each delivery of spans would never end."""
_log = logs.get_logger("rpc")


def make(
    register: Callable[[grpc.aio.Server], None], socket: str, max_request_bytes: int = MAX_MESSAGE_BYTES
) -> grpc.aio.Server:
    """A server with our interceptors, bound to a Unix socket; the caller starts it."""
    Path(socket).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with suppress(FileNotFoundError):
        Path(socket).unlink()
    # of options with one name the first counts
    options = [("grpc.max_receive_message_length", max_request_bytes), *OPTIONS]
    server = grpc.aio.server(interceptors=[Interceptor()], options=options)
    register(server)
    server.add_insecure_port(f"unix:{socket}")
    return server


class Interceptor(grpc.aio.ServerInterceptor):
    """Wraps every handler; servicers just raise errors of common.errors."""

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], details: grpc.HandlerCallDetails
    ) -> Any:
        handler = await continuation(details)
        if handler is None or details.method.startswith(_BESIDE):
            return handler
        method = details.method
        if handler.response_streaming:
            return _streaming(handler, method)
        return _unary(handler, method)


def _unary(handler: Any, method: str) -> Any:
    inner = handler.stream_unary if handler.request_streaming else handler.unary_unary
    make_handler = (
        grpc.stream_unary_rpc_method_handler
        if handler.request_streaming
        else grpc.unary_unary_rpc_method_handler
    )

    async def call(request: Any, context: Any) -> Any:
        answer = None

        async def work() -> None:
            nonlocal answer
            answer = await inner(_read(handler, request), context)

        await _Call(method, context, unary=True).run(work)
        return answer

    return make_handler(call, None, handler.response_serializer)


def _streaming(handler: Any, method: str) -> Any:
    inner = handler.stream_stream if handler.request_streaming else handler.unary_stream
    make_handler = (
        grpc.stream_stream_rpc_method_handler
        if handler.request_streaming
        else grpc.unary_stream_rpc_method_handler
    )

    async def call(request: Any, context: Any) -> None:
        async def work() -> None:
            async with aclosing(inner(_read(handler, request), context)) as items:
                async for item in items:
                    try:
                        await context.write(item)
                    except (grpc.aio.InternalError, grpc.aio.UsageError):  # the client has gone
                        return

        await _Call(method, context, unary=False).run(work)

    return make_handler(call, None, handler.response_serializer)


def _read(handler: Any, request: Any) -> Any:
    """The request of a call, or its requests: read here, as gRPC takes one that it cannot read for a bug."""
    parse = handler.request_deserializer
    if parse is None:  # it is passed on as it is
        return request
    if not handler.request_streaming:
        return _parsed(parse, request)

    async def each() -> AsyncIterator[Any]:
        async for one in request:
            yield _parsed(parse, one)

    return each()


def _parsed(parse: Callable[[bytes], Any], raw: bytes) -> Any:
    try:
        return parse(raw)
    except DecodeError as exc:
        raise errors.InvalidArgumentError(f"request: {exc}") from exc


class _Call:
    """One call: its span, its line in the log, and how it failed."""

    def __init__(self, method: str, context: Any, *, unary: bool) -> None:
        self._unary = unary
        self._method = method.rpartition(".")[2] if "." in method else method
        self._context = context
        self._error: errors.SlipwayError | None = None
        self._finished = False
        metadata = {k: v for k, v in context.invocation_metadata() or () if isinstance(v, str)}
        caller.current.set(caller.of_call(method, metadata))
        parent = propagate.extract(metadata)
        self._quiet = any(word in method.rpartition("/")[2] for word in _QUIET)
        self._span = span(method.strip("/"), kind=SpanKind.SERVER, parent=parent)

    async def run(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do what the call asks for, in a task of its own.

        gRPC cancels the task of a call whose client has gone, and knows of no scopes. Here that cancels the scope of the
        work: so a shield in it holds, and what a thread does for it is awaited.
        """
        with self:
            async with anyio.create_task_group() as group:
                group.start_soon(self._work, work)
            if not self._finished:  # what it waited for was cancelled by somebody else
                self._failed(errors.UnavailableError(f"{self._method}: was cut off"))
        if self._error:
            # kept, it and the frames in its traceback, this one's among them, would hold each other
            error, self._error = self._error, None
            await self._abort(error)

    async def _work(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except errors.SlipwayError as exc:
            # a bug of the service that was asked in turn is in that one's log
            if isinstance(exc, errors.InternalError) and not isinstance(exc.__cause__, grpc.RpcError):
                _log.exception("rpc.bug", rpc=self._method)
            self._failed(exc)
        except Exception as exc:  # noqa: BLE001 - the border: an unknown exception is a bug, logged whole
            self._broken(exc)
        self._finished = True

    def __enter__(self) -> Self:
        self._start = time.monotonic()
        self._current = self._span.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._span.__exit__(None, None, None)
        took_s = time.monotonic() - self._start
        facts: dict[str, object] = {"rpc": self._method, "ms": round(took_s * 1e3, 1)}
        code = status.error_code_name(self._error) if self._error else meter.CANCELLED if exc[0] else ""
        meter.count(self._method, took_s, code, unary=self._unary)
        if self._error:
            _log.info("rpc.failed", **facts, error=self._error.message, code=code)
        elif self._quiet:
            _log.debug("rpc.done", **facts)
        else:
            _log.info("rpc.done", **facts)

    def _failed(self, error: errors.SlipwayError) -> None:
        self._error = error
        self._current.record_exception(error)
        self._current.set_attribute("error", error.message)

    def _broken(self, exc: Exception) -> None:
        """An exception that no servicer foresaw: a bug, but for a disk that is full or fails, which any write can meet."""
        bug = errors.InternalError(f"internal error: {type(exc).__name__}")
        error = errors.of_system(exc, self._method) if isinstance(exc, OSError) else bug
        if isinstance(error, errors.InternalError):
            _log.exception("rpc.bug", rpc=self._method)
            error = bug  # a path may be nobody's business
        self._failed(error)

    async def _abort(self, error: errors.SlipwayError) -> None:
        trailers = ((status.REASON_KEY, error.reason),)
        await self._context.abort(status.code_of(error), error.message, trailers)
