"""The life of a service: logs and traces on, tasks in one group, ready, drained, gone."""

import faulthandler
import gc
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import anyio
import grpc
from anyio.abc import TaskGroup
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from common import failpoint
from common.errors import SlipwayError
from common.observe import log as logs
from common.observe import metrics, scrape, trace
from common.places import metrics_path
from common.rpc import handed
from common.rpc import server as rpc
from common.rpc.plain import MAX_MESSAGE_BYTES
from common.settings import CommonSettings, load
from common.sys import descriptors, systemd

DRAIN_S = 5.0
"""How long running calls may go on after SIGTERM."""
ARRIVE_S = 0.2
"""How long what was taken from a handed-over socket before SIGTERM may need to get to the server."""
_log = logs.get_logger("life")


class Life:
    """What a service's main has: the task group of its long tasks, and `serve`."""

    def __init__(self, daemon: str, settings: CommonSettings, task_group: TaskGroup) -> None:
        self.daemon = daemon
        self._settings = settings
        self.task_group = task_group
        self.stopping = anyio.Event()
        """Set by SIGTERM or SIGINT."""
        self.serving = anyio.Event()
        """Set when calls are answered."""

    def start(
        self, fn: Callable[..., Coroutine[Any, Any, None]], *args: object, name: str | None = None
    ) -> None:
        """Start a long task; when it fails, the service ends."""
        self.task_group.start_soon(fn, *args, name=name)

    def start_once_serving(self, fn: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
        """Start a long task whose work would only keep the service from its first answer."""

        async def later() -> None:
            await self.serving.wait()
            await fn()

        self.start(later, name=name)

    async def serve(
        self,
        register: Callable[[grpc.aio.Server], None],
        socket: str,
        max_request_bytes: int = MAX_MESSAGE_BYTES,
    ) -> None:
        """Answer on a Unix socket until SIGTERM, then drain and return."""
        servicer = health.aio.HealthServicer()

        def register_all(server: grpc.aio.Server) -> None:
            register(server)
            health_pb2_grpc.add_HealthServicer_to_server(servicer, server)

        waiting = systemd.listener(socket)
        own = f"{socket}.own" if waiting else socket
        server = rpc.make(register_all, own, max_request_bytes)
        await server.start()
        await anyio.Path(own).chmod(self._settings.socket_mode)
        gc.collect()
        gc.freeze()  # as what was loaded (common/start.py), what is made once stays
        await servicer.set("", health_pb2.HealthCheckResponse.SERVING)
        shown = metrics_path(self._settings, self.daemon)
        await anyio.Path(shown).parent.mkdir(mode=0o700, exist_ok=True)
        self.start(scrape.serve, shown, self._settings.metrics_address, name="metrics")
        _log.info("service.ready", daemon=self.daemon, socket=socket)
        self.serving.set()
        if waiting:
            self.start(handed.relay, waiting, own, self.stopping, name="relay of connections")
        self.start(_show_life, name="watchdog")
        systemd.ready()
        try:
            await self.stopping.wait()
        finally:
            systemd.stopping()
            with anyio.CancelScope(shield=True), anyio.move_on_after(ARRIVE_S + DRAIN_S + 1):
                if waiting:
                    await anyio.sleep(ARRIVE_S)
                await servicer.enter_graceful_shutdown()
                await server.stop(DRAIN_S)


def run(
    daemon: str,
    settings: CommonSettings,
    main: Callable[[Life], Awaitable[None]],
    *,
    own_descriptors: bool = True,
) -> None:
    """Run a service until it is told to stop; leaves the process with 0, or 1 after an error.

    Args:
        daemon: its name.
        settings: its settings.
        main: what it does.
        own_descriptors: it may raise the limit of descriptors, which no container inherits from it.
    """
    if own_descriptors:
        descriptors.raise_limit()
    faulthandler.enable()  # the watchdog's SIGABRT shows where the loop stands still
    logs.setup(settings.log_level)
    trace.setup(daemon, settings.node, settings.otlp_endpoint)
    metrics.setup(daemon)
    failpoint.setup(settings.run_dir)
    try:
        anyio.run(_live, daemon, settings, main)
    except* SlipwayError as group:
        for exc in group.exceptions:
            _log.error("service.failed", daemon=daemon, error=str(exc))
        sys.exit(1)
    finally:
        trace.shutdown()


async def _live(daemon: str, settings: CommonSettings, main: Callable[[Life], Awaitable[None]]) -> None:
    async with anyio.create_task_group() as group:
        life = Life(daemon, settings, group)
        group.start_soon(_watch_signals, life, settings)
        await main(life)
        group.cancel_scope.cancel()


async def _watch_signals(life: Life, settings: CommonSettings) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async for number in signals:
            if number == signal.SIGHUP:
                systemd.reloading()
                _reload(life.daemon, settings)
                systemd.ready()
                continue
            _log.info("service.stopping", daemon=life.daemon, signal=signal.Signals(number).name)
            life.stopping.set()


def _reload(daemon: str, settings: CommonSettings) -> None:
    """Read the settings again: the level of the log counts at once, and what else is new is named in it."""
    try:
        found = load(type(settings), daemon, sys.argv[1:])
    except SystemExit:  # said why, on stderr
        _log.error("settings.refused", daemon=daemon)
        return
    logs.setup(found.log_level)
    differ = [name for name in settings.__struct_fields__ if getattr(found, name) != getattr(settings, name)]
    restart = [name for name in differ if name != "log_level"]
    _log.info("settings.read", daemon=daemon, log_level=found.log_level, need_restart=restart)


async def _show_life() -> None:
    """Tell the service manager that the event loop goes round, as often as it wants to hear."""
    limit_s = systemd.watchdog_s()
    while limit_s:
        systemd.alive()
        await anyio.sleep(limit_s / 2)
