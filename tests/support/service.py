"""Services as processes of a test's own."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path


def started(
    name: str,
    log: Path,
    settings: Mapping[str, str],
    *,
    inside: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> "subprocess.Popen[bytes]":
    """Start a service; nobody waits for it to serve.

    Args:
        name: of the service.
        log: the file that its output is added to.
        settings: its settings by name, as `--print-config` shows them.
        inside: a command that runs the service in other namespaces.
        environment: what else its environment has.
    """
    told = {f"SLIPWAY_{name.upper()}_{key.upper()}": value for key, value in settings.items()}
    program = str(Path(sys.executable).parent / name)
    with log.open("ab") as output:
        return subprocess.Popen(
            [*inside, program],
            env={**os.environ, **told, **(environment or {})},
            cwd="/",
            stdout=output,
            stderr=output,
        )
