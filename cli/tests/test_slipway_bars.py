"""Bars on a terminal of a test's own."""

import os
import pty
import subprocess
import sys

BARS = """
from slipway.output.bars import Bars, Row
bars = Bars()
bars.show([Row("sha256:aaaa", 3_000_000, 0, ""), Row("sha256:bbbb", 4_000_000, 0, "")])
bars.show_left(None)
bars.show([Row("sha256:aaaa", 3_000_000, 3_000_000, "done")])
bars.show_left(2.0)
bars.close()
"""


def test_the_sum_of_all_is_never_another() -> None:
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        with subprocess.Popen([sys.executable, "-c", BARS], stderr=theirs) as process:
            os.close(theirs)
            shown = b""
            while piece := _read(terminal.fileno()):
                shown += piece
        assert process.returncode == 0
    told = shown.decode()
    assert "3.0/7.0 MB" in told
    assert "/100 bytes" not in told


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, 65536)
    except OSError:  # the other end has gone
        return b""
