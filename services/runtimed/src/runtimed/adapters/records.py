"""Records whose copies on disk are whole, but not forced to the disk one by one.

A copy is read when Redis was wiped under a running machine; after a power cut there is nothing running that it
could tell of, and Redis has its own log. Two fsyncs for each transition are 5 ms and more on a busy disk, six
times for a pod: more than all else that runtimed does.
"""

from pathlib import Path
from typing import TypeVar

import anyio.to_thread

from common.events.schema import encoder
from common.records import Record, RecordStore
from common.records.store import RECORD_FILE

R = TypeVar("R", bound=Record)


class CopiedRecordStore(RecordStore[R]):
    """A RecordStore for many short transitions."""

    async def _copy(self, record: R) -> None:
        if self._directory:
            path = self._directory / record.id / RECORD_FILE
            await anyio.to_thread.run_sync(_replace, path, encoder.encode(record))


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.new")
    try:
        temporary.write_bytes(content)
    except FileNotFoundError:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary.write_bytes(content)
    temporary.chmod(0o600)
    temporary.replace(path)
