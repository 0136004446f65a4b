"""Lives of shims in the zygote before the first fork, with a shell script for a runtime.

CPython writes into its code as it runs it for the first times (inline caches, lazy objects). What the zygote has
written already stays shared: measured, a rehearsed shim has a quarter fewer pages of its own.
"""

import _socket
import gc
import os

from shimd.shim import wire
from shimd.shim.handover import Facts
from shimd.shim.loop import Loop
from shimd.shim.server import Server
from shimd.shim.supervisor import Supervisor

_ROUNDS = 10
_LIMIT_S = 2.0
_FIRST_FD = 4
_LAST_FD = 1024
# The "container" must outlive the shell: a shell reaps a child that ends before it, and tells nobody.
_SCRIPT = (
    'while [ $# -gt 0 ]; do case "$1" in '
    '--pid-file) shift; (echo out; while [ -d /proc/$$ ]; do :; done) & echo $! > "$1";; '
    "esac; shift; done"
)


def rehearse(directory: str) -> None:
    """Live some lives in a scratch directory; leaves neither a descriptor above 3 nor a process.

    The caller is a subreaper meanwhile, and reaps nothing itself.
    """
    os.makedirs(directory, 0o700, exist_ok=True)
    spec: Facts = {
        "container_id": "rehearsal",
        "bundle_path": directory,
        "runtime": {"binary": "/bin/sh", "args": ["-c", _SCRIPT, "sh"], "root": ""},
        "log_path": f"{directory}/log",
        "record_dir": directory,
    }
    for _ in range(_ROUNDS):
        whole = _live(directory, spec)
        gc.collect()
        os.closerange(_FIRST_FD, _LAST_FD)  # pipes and others that a shim's end leaves to the kernel
        if not whole:
            break  # a machine this slow needs its zygote more than small shims
    for name in os.listdir(directory):
        os.unlink(f"{directory}/{name}")
    os.rmdir(directory)


def _live(directory: str, spec: Facts) -> bool:
    loop = Loop()
    supervisor = Supervisor(loop, directory, spec)
    Server(loop, wire.listen(f"{directory}/s").detach(), supervisor)
    client = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    client.connect(f"{directory}/s")
    for number, op in enumerate(("state", "start", "state", "subscribe")):
        client.send(
            wire.pack({"v": wire.VERSION, "id": number, "op": op, "traceparent": "", "deadline_s": 1.0})
        )

    def end() -> None:
        loop.stopped = True

    supervisor.on_cleaned = end
    loop.after(_LIMIT_S, end)
    loop.run()
    return supervisor.cleaned
