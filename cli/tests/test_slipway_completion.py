"""The completion script in a real bash."""

import subprocess
import sys
from pathlib import Path

import pytest

SLIPWAY = str(Path(sys.executable).parent / "slipway")


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        (["slipway", "ins"], ["inspect"]),
        (["slipway", "--run-dir", "/x", "kill", "--si"], ["--signal"]),
        (["slipway", "pods", "s"], ["stop"]),
    ],
)
def test_bash_completes_verbs_and_options(line: list[str], wanted: list[str]) -> None:
    script = (
        'eval "$("$1" completion bash)"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); '
        '_slipway; echo "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["/bin/bash", "-c", script, "bash", SLIPWAY, *line],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert (done.stdout.split(), done.stderr) == (wanted, "")
