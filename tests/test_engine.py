"""The engine that the tests share."""

import subprocess
import sys

import pytest

from devtools import engine

HOLD = "from devtools import engine\nwith engine.engine(wait=True) as a: print(a, flush=True); input()"


@pytest.mark.root
@pytest.mark.skipif(not engine.installed(), reason="needs root and Debian's docker.io")
@pytest.mark.timeout(300)
def test_an_engine_whose_user_was_killed_makes_room() -> None:
    command = [sys.executable, "-c", HOLD]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as user:
        assert user.stdout is not None
        address = user.stdout.readline().strip()
        user.kill()
    with engine.engine(wait=True) as again:
        assert address == again == f"unix://{engine.RUN}/docker.sock"
