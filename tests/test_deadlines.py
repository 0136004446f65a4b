"""The suite's own rules, by a run of pytest inside: deadlines, skips."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.pace import patience

ROOT = Path(__file__).parent.parent
SUITE = """
import asyncio

import anyio
import pytest

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="session")
async def shared():
    async with anyio.create_task_group() as group:
        yield group
        group.cancel_scope.cancel()


@pytest.mark.timeout(2)
async def test_hangs(shared):
    await anyio.sleep_forever()


async def test_is_told_of_a_cancellation_that_nobody_asked_for(shared):
    raise asyncio.CancelledError


async def test_next(shared):
    await anyio.sleep(0)


async def test_raises_a_timeout_of_its_own(shared):
    with pytest.raises(TimeoutError):
        with anyio.fail_after(0):
            await anyio.sleep_forever()
"""


def run(tmp_path: Path, suite: str, *options: str) -> "subprocess.CompletedProcess[str]":
    (tmp_path / "test_inner.py").write_text(suite)
    (tmp_path / "conftest.py").write_text((ROOT / "conftest.py").read_text())
    command = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml")]
    command += ["-p", "no:cacheprovider", *options, str(tmp_path)]
    environment = os.environ | {"SLIPWAY_TEST_SLOWNESS": "1"}
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=patience(50), check=False, env=environment
    )


def test_a_deadline_fails_its_own_test_alone(tmp_path: Path) -> None:
    done = run(tmp_path, SUITE)
    assert "2 failed, 2 passed" in done.stdout, done.stdout
    assert "test_hangs - AssertionError: not done within 2 s" in done.stdout


@pytest.mark.parametrize(("options", "status"), [((), 0), (("--no-skips",), 6)])
def test_a_skip_fails_the_run_only_where_none_is_allowed(
    tmp_path: Path, options: tuple[str, ...], status: int
) -> None:
    suite = "import pytest\n\n\ndef test_skipped():\n    pytest.skip('not here')\n\n\ndef test_runs():\n    pass\n"
    done = run(tmp_path, suite, *options)
    assert done.returncode == status, done.stdout
    assert "1 passed, 1 skipped" in done.stdout
