"""Log files of what runs."""

from common.errors import FailedPreconditionError, SlipwayError
from common.events.schema import ContainerLogReopened
from common.failpoint import failpoint
from common.observe.log import get_logger
from runtimed import selection
from runtimed.use.parts import Parts

_log = get_logger("runtimed")


class Logs:
    """The logs that the shims of this node's containers write."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def reopen(self, name: str) -> None:
        """Write on in a new log file; returns when it is in use, whether or not that can be told.

        A kubelet that gets an error renames the old file back over the one that is in use.

        Raises:
            FailedPreconditionError: the container does not run; no file is made.
        """
        record = selection.find(self._parts.containers.store, "container", name)
        if not record.state.has_init:
            raise FailedPreconditionError(f"container {record.id}: is {record.state}, not running")
        await failpoint("runtimed.rotate.asked")
        await self._parts.shims.reopen_log(record.socket_path)
        await failpoint("runtimed.rotate.done")
        fact = ContainerLogReopened(id=record.id, sandbox_id=record.sandbox_id)
        try:
            await self._parts.containers.amend(record.id, fact)
        except SlipwayError as exc:
            _log.warning("log.reopening_untold", container_id=record.id, error=exc.message)
