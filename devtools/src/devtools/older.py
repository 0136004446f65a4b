"""An older Slipway, installed beside this one: to take over from it, and to be timed against."""

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

INSTALL_S = 900


@contextmanager
def programs_of(revision: str) -> Iterator[Path]:
    """The folder with the programs of a revision, installed for as long as the block runs.

    Raises:
        subprocess.CalledProcessError: git does not know the revision, or its packages cannot be had.
    """
    with tempfile.TemporaryDirectory(prefix="slipway-older-") as name:
        archive = subprocess.run(["git", "archive", revision], check=True, stdout=subprocess.PIPE).stdout
        subprocess.run(["tar", "-x", "-C", name], input=archive, check=True)
        done = subprocess.run(
            [f"{name}/dev", "install-deps"], capture_output=True, timeout=INSTALL_S, check=False
        )
        if done.returncode:
            raise subprocess.CalledProcessError(done.returncode, done.args, stderr=done.stderr[-2000:])
        yield Path(name, ".venv", "bin")
