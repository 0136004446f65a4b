"""Whether this machine can dump and restore processes, and what is missing."""

import shutil
import subprocess

import anyio

from common.errors import FailedPreconditionError
from runtimed.oci.features import Features
from runtimed.settings import Handler

CHECK_S = 20.0
RUNTIME_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Where the OCI runtimes look for CRIU: the PATH that shims give them."""
PACKAGE = "install the package criu"


async def require(name: str, handler: Handler, features: Features, criu: str) -> None:
    """Refuse what cannot work.

    Raises:
        FailedPreconditionError: all that is missing, in one sentence.
    """
    missing = []
    if handler.sandboxed:
        missing.append(
            f"handler {name!r} keeps processes in a kernel of its own, whose dumps are not offered"
        )
    elif not features.checkpoint:
        missing.append(f"the OCI runtime of handler {name!r} cannot checkpoint")
    program = shutil.which(criu, path=RUNTIME_PATH)
    if program is None:
        missing.append(f"CRIU ({criu}) is not installed: {PACKAGE}")
    elif said := await _check(program):
        missing.append(f"`{criu} check` fails on this kernel: {said}")
    if missing:
        raise FailedPreconditionError(f"checkpoints do not work on this machine: {'; '.join(missing)}")


async def _check(program: str) -> str:
    """What CRIU finds wrong with this machine, its first complaint; empty when it is content."""
    try:
        with anyio.fail_after(CHECK_S):
            done = await anyio.run_process([program, "check"], check=False, stderr=subprocess.STDOUT)
    except TimeoutError:
        return f"no answer within {CHECK_S:.0f} s"
    except OSError as exc:
        return exc.strerror or str(exc)
    if done.returncode == 0:
        return ""
    lines = done.stdout.decode(errors="replace").splitlines()
    complaints = [line for line in lines if line.startswith("Error")] or lines
    return complaints[0].strip()[:300] if complaints else f"exit code {done.returncode}"
