"""Exec, Attach and PortForward: the request is checked here, and served behind the URL."""

from collections.abc import Callable
from typing import Any

from common.api.cri.v1 import api_pb2 as cri
from common.api.runtime.v1 import runtime_pb2 as pb
from common.errors import InvalidArgumentError
from crid.streaming.remote import PREPARE_S
from crid.streaming.server import StreamingServer


class Streams:
    """Answers with URLs."""

    def __init__(self, runtimed: Any, server: StreamingServer) -> None:
        self._runtimed = runtimed
        self._url: Callable[..., str] = server.url

    async def exec(self, request: cri.ExecRequest, _context: Any) -> cri.ExecResponse:
        _check_streams(request)
        if not request.cmd:
            raise InvalidArgumentError("cmd: is empty")
        await self._check_running(request.container_id)
        return cri.ExecResponse(url=self._url(request))

    async def attach(self, request: cri.AttachRequest, _context: Any) -> cri.AttachResponse:
        _check_streams(request)
        await self._check_running(request.container_id)
        return cri.AttachResponse(url=self._url(request))

    async def port_forward(self, request: cri.PortForwardRequest, _context: Any) -> cri.PortForwardResponse:
        for port in request.port:
            if not 0 < port <= 65535:
                raise InvalidArgumentError(f"port: {port} is not between 1 and 65535")
        wanted = pb.PreparePortForwardRequest(pod_sandbox_id=request.pod_sandbox_id)
        await self._runtimed.PreparePortForward(wanted, timeout=PREPARE_S)
        return cri.PortForwardResponse(url=self._url(request))

    async def _check_running(self, container_id: str) -> None:
        request = pb.PrepareAttachRequest(container_id=container_id)
        await self._runtimed.PrepareAttach(request, timeout=PREPARE_S)


def _check_streams(request: cri.ExecRequest | cri.AttachRequest) -> None:
    if not (request.stdin or request.stdout or request.stderr):
        raise InvalidArgumentError("stdin, stdout and stderr: none is asked for")
    if request.tty and request.stderr:
        raise InvalidArgumentError(
            "stderr: a terminal has one output only, so tty and stderr exclude each other"
        )
