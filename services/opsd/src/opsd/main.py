"""opsd: wires this node's readings, the model of all nodes, NATS and the page, and serves."""

import sys
from contextlib import AsyncExitStack
from functools import partial
from itertools import chain, repeat
from typing import Any

import anyio
import grpc
from anyio.abc import SocketAttribute
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as rpc

from common.clients.imaged import ImagedClient
from common.clients.runtimed import RuntimedClient
from common.life import Life, run
from common.observe.log import get_logger
from common.observe.trace import unrecorded
from common.places import own_dirs, socket_path
from common.settings import load
from opsd import meters
from opsd.agent.answers import Answers
from opsd.agent.lists import Lister
from opsd.agent.pulse import Pulse
from opsd.agent.seal import Seals
from opsd.cluster import Cluster
from opsd.fleet import Fleet
from opsd.forward import forwarding
from opsd.servicer import TraceServicer
from opsd.settings import Settings
from opsd.spans import SpanStore
from opsd.web.api import Api
from opsd.web.assets import Assets
from opsd.web.guard import HEADERS, Guard, token_of
from opsd.web.server import Server

LOCAL_S = 5.0
"""Deadline of a call to a service of this node."""
AGAIN_S = 1.0
MAX_EXPORT_BYTES = 4 << 20
"""Of one delivery of spans; exporters send 512 at once."""
_log = get_logger("opsd")


async def serve(settings: Settings, life: Life) -> None:
    """Answer until told to stop."""
    run_dir, data_dir = own_dirs(settings, "opsd")
    token = token_of(settings.token, data_dir / "token")
    async with AsyncExitStack() as stack:
        stack.enter_context(unrecorded())
        runtimed = RuntimedClient(socket_path(settings, "runtimed"), LOCAL_S)
        stack.push_async_callback(runtimed.close)
        imaged = ImagedClient(socket_path(settings, "imaged"), LOCAL_S)
        stack.push_async_callback(imaged.close)
        spans = SpanStore(settings.max_spans, settings.max_span_bytes)
        fleet = Fleet(settings.max_events)
        pulse = Pulse(settings, runtimed, imaged)
        answers = Answers(runtimed, Lister(settings.node, runtimed), spans, Seals(settings.node, token))
        cluster = Cluster(settings, fleet, pulse, answers)
        guard = Guard(settings.hosts, token, anonymous=settings.anonymous)
        server = Server(Api(fleet, cluster, pulse, guard, Assets(), settings.node, token), HEADERS)
        meters.show(fleet, spans)
        for task in (pulse.watch_runtime, pulse.watch_pulls, cluster.run, meters.watch_loop):
            life.start(task)
        forward = await stack.enter_async_context(forwarding(settings.otlp_endpoint))
        if forward:
            life.start(forward.run)
        local = await anyio.create_unix_listener(run_dir / "http.sock", mode=0o600)
        life.start(partial(server.serve, local=True), local)
        if settings.http_address:
            life.start(_serve_tcp, settings, server, pulse, anyio.Path(run_dir / "port"))

        def register(server: grpc.aio.Server) -> None:
            rpc.add_TraceServiceServicer_to_server(TraceServicer(spans, forward), server)  # type: ignore[no-untyped-call]

        await life.serve(register, socket_path(settings, "opsd"), MAX_EXPORT_BYTES)


async def _serve_tcp(settings: Settings, server: Server, pulse: Pulse, last: anyio.Path) -> None:
    """The page is worth no service: an address that cannot be had is tried again.

    Args:
        settings: with the address; of any free port, the last one is taken again, so that open pages find it.
        server: what answers there.
        pulse: told the address.
        last: the file with the port of last time.
    """
    host, _, wanted = settings.http_address.rpartition(":")
    ports = [int(wanted)]
    known = await last.read_text() if await last.exists() else ""
    if not ports[0] and known.isdecimal():  # empty when the disk was full
        ports.insert(0, int(known))
    for port in chain(ports, repeat(ports[-1])):
        try:
            listener: Any = await anyio.create_tcp_listener(local_host=host.strip("[]"), local_port=port)
        except OSError as exc:
            _log.warning("page.waiting", address=f"{host}:{port}", error=exc.strerror or str(exc))
            await anyio.sleep(AGAIN_S)
            continue
        bound = listener.extra(SocketAttribute.local_port)  # noqa: S610 - no Django
        await last.write_text(str(bound))
        pulse.address = f"http://{host}:{bound}"
        _log.info("page.ready", address=pulse.address)
        await server.serve(listener, local=False)


def main() -> None:
    """Entry point."""
    settings = load(Settings, "opsd", sys.argv[1:])
    run("opsd", settings, partial(serve, settings))
