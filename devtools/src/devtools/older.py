"""An older Slipway, installed beside this one: to take over from it, and to be timed against."""

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import FailedPreconditionError, InvalidArgumentError

INSTALL_S = 900


@contextmanager
def programs_of(revision: str) -> Iterator[Path]:
    """The folder with the programs of a revision, installed for as long as the block runs.

    Raises:
        InvalidArgumentError: git does not know the revision.
        FailedPreconditionError: its packages cannot be had.
    """
    command = ["git", "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}"]
    known = subprocess.run(command, capture_output=True, text=True, check=False)
    if known.returncode:
        raise InvalidArgumentError(f"git knows no revision {revision!r}: want a commit, a tag or a branch")
    with tempfile.TemporaryDirectory(prefix="slipway-older-") as name:
        archive = subprocess.run(
            ["git", "archive", known.stdout.strip()], check=True, stdout=subprocess.PIPE
        ).stdout
        subprocess.run(["tar", "-x", "-C", name], input=archive, check=True)
        done = subprocess.run(
            [f"{name}/dev", "install-deps"], capture_output=True, timeout=INSTALL_S, check=False
        )
        if done.returncode:
            told = done.stderr.decode(errors="replace").strip()[-500:]
            raise FailedPreconditionError(f"{revision} cannot be installed: {told}")
        yield Path(name, ".venv", "bin")
