"""Attempts that end here, before they come to runtimed, which is told so that it can explain them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from common.api.runtime.v1 import runtime_pb2 as pb
from common.errors import SlipwayError
from common.observe.log import get_logger

REPORT_S = 2.0
_log = get_logger("crid")


class Failures:
    """Reports what fails in its blocks."""

    def __init__(self, runtimed: Any) -> None:
        self._runtimed = runtimed

    @asynccontextmanager
    async def reported(
        self, *, image: str, name: str = "", pod_sandbox_id: str = "", pod_uid: str = ""
    ) -> AsyncIterator[None]:
        """Tell runtimed of an error of the block, as far as it answers, and raise it on."""
        try:
            yield
        except SlipwayError as exc:
            report = pb.ReportFailureRequest(
                pod_sandbox_id=pod_sandbox_id,
                pod_uid=pod_uid,
                name=name,
                image=image,
                error=exc.message,
                reason=exc.reason,
            )
            try:
                await self._runtimed.ReportFailure(report, timeout=REPORT_S)
            except SlipwayError as other:
                _log.info("failure.untold", image=image, error=other.message)
            raise
