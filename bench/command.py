"""How long a person waits for `slipway ps`, from its fork to its end."""

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from bench import bare
from devtools.cri import Cri

RUNS = 20
CONTAINERS = 10


async def ps(cri: Cri, image: str, run_dir: Path) -> float:
    """Milliseconds, median, with some containers to list and the byte code of an installed program."""
    pod = cri.sandbox_config("bench-ps", host_network=True)
    pod_id = await cri.run_sandbox(pod)
    for number in range(CONTAINERS):
        config = cri.container_config(f"c{number}", image, ["sleep", "1000"])
        await cri.start(await cri.create(pod_id, config, pod))
    command: list[str | Path] = [
        Path(sys.executable).parent / "slipway",
        "--run-dir",
        run_dir,
        "-o",
        "table",
        "ps",
    ]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    took = []
    for _ in range(RUNS + 1):
        began = time.perf_counter()
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True, timeout=30
        )
        took.append((time.perf_counter() - began) * 1e3)
        assert len(done.stdout.splitlines()) == CONTAINERS + 1, done.stdout
        time.sleep(bare.REST_S)
    await cri.remove_sandbox(pod_id)
    return statistics.median(took[1:])
