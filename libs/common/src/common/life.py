"""The life of a service: logs and traces on, tasks in one group, ready, drained, gone."""

import gc
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import anyio
import grpc
from anyio.abc import TaskGroup
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from common.errors import SlipwayError
from common.observe import log as logs
from common.observe import trace
from common.rpc import server as rpc
from common.settings import CommonSettings

DRAIN_S = 5.0
"""How long running calls may go on after SIGTERM."""
_log = logs.get_logger("life")


class Life:
    """What a service's main has: the task group of its long tasks, and `serve`."""

    def __init__(self, daemon: str, task_group: TaskGroup) -> None:
        self.daemon = daemon
        self.task_group = task_group
        self.stopping = anyio.Event()
        """Set by SIGTERM or SIGINT."""

    def start(
        self, fn: Callable[..., Coroutine[Any, Any, None]], *args: object, name: str | None = None
    ) -> None:
        """Start a long task; when it fails, the service ends."""
        self.task_group.start_soon(fn, *args, name=name)

    async def serve(
        self, register: Callable[[grpc.aio.Server], None], socket: str, mode: int = 0o600
    ) -> None:
        """Answer on a Unix socket until SIGTERM, then drain and return."""
        servicer = health.aio.HealthServicer()

        def register_all(server: grpc.aio.Server) -> None:
            register(server)
            health_pb2_grpc.add_HealthServicer_to_server(servicer, server)

        server = rpc.make(register_all, socket)
        await server.start()
        await anyio.Path(socket).chmod(mode)
        gc.collect()
        gc.freeze()  # what is loaded stays: a full collection need not look at it, for 10 ms and more
        await servicer.set("", health_pb2.HealthCheckResponse.SERVING)
        _log.info("service.ready", daemon=self.daemon, socket=socket)
        try:
            await self.stopping.wait()
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(DRAIN_S + 1):
                await servicer.enter_graceful_shutdown()
                await server.stop(DRAIN_S)


def run(daemon: str, settings: CommonSettings, main: Callable[[Life], Awaitable[None]]) -> None:
    """Run a service until it is told to stop; leaves the process with 0, or 1 after an error."""
    logs.setup(settings.log_level)
    trace.setup(daemon, settings.node, settings.otlp_endpoint)
    try:
        anyio.run(_live, daemon, main)
    except* SlipwayError as group:
        for exc in group.exceptions:
            _log.error("service.failed", daemon=daemon, error=str(exc))
        sys.exit(1)
    finally:
        trace.shutdown()


async def _live(daemon: str, main: Callable[[Life], Awaitable[None]]) -> None:
    async with anyio.create_task_group() as group:
        life = Life(daemon, group)
        group.start_soon(_watch_signals, life)
        await main(life)
        group.cancel_scope.cancel()


async def _watch_signals(life: Life) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            _log.info("service.stopping", daemon=life.daemon, signal=signal.Signals(number).name)
            life.stopping.set()
