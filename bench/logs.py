"""One container that writes 100-byte lines as fast as it can, against the same lines through a pipe to `cat`."""

import statistics
import subprocess
import time
from pathlib import Path

import anyio

from common.api.cri.v1 import api_pb2 as cri_pb
from devtools.cri import Cri

MEGABYTES = 300
ROUNDS = 3
_LINES = MEGABYTES * 10_000
_RECORD_BYTES = 140
"""100 of a line and 40 of its time stamp, stream and tag."""
_WRITE = f"yes {'x' * 99} | head -n {_LINES}"
_AGAIN_S = 0.05
_LIMIT_S = 120


async def throughput(cri: Cri, image: str, scratch: Path) -> tuple[float, float]:
    """Megabytes of lines a second into the CRI log file, and into a file by `cat`; medians of alternating rounds."""
    ours, floor = [], []
    for number in range(ROUNDS):
        ours.append(MEGABYTES / await logged(cri, image, number))
        floor.append(MEGABYTES / _by_cat(scratch / "lines"))
    return statistics.median(ours), statistics.median(floor)


async def logged(cri: Cri, image: str, number: int) -> float:
    """Seconds that the container wrote."""
    sandbox = cri.sandbox_config(f"bench-logs-{number}", host_network=True)
    Path(sandbox.log_directory).mkdir(parents=True, exist_ok=True)
    sandbox_id = await cri.run_sandbox(sandbox)
    config = cri.container_config("c", image, ["sh", "-c", _WRITE])
    container_id = await cri.create(sandbox_id, config, sandbox)
    await cri.start(container_id)
    with anyio.fail_after(_LIMIT_S):
        while (status := await cri.status(container_id)).state != cri_pb.CONTAINER_EXITED:
            await anyio.sleep(_AGAIN_S)
    written = Path(status.log_path).stat().st_size
    await cri.remove_sandbox(sandbox_id)
    if written != _LINES * _RECORD_BYTES:
        raise RuntimeError(f"the log has {written} bytes, not {_LINES * _RECORD_BYTES}")
    Path(status.log_path).unlink(missing_ok=True)
    return float(status.finished_at - status.started_at) / 1e9


def _by_cat(path: Path) -> float:
    begin = time.perf_counter()
    subprocess.run(
        ["/bin/busybox", "sh", "-c", f'({_WRITE}) | cat > "$0"', str(path)], check=True, timeout=_LIMIT_S
    )
    took = time.perf_counter() - begin
    path.unlink()
    return took
