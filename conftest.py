"""Fixtures that every suite has, and the deadline of each test."""

import asyncio
import inspect
import signal
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import hypothesis
import pytest

from devtools.engine import broker_image
from tests.support.brokers import Launch, as_process, in_containers_of
from tests.support.engine import engine_for_containers
from tests.support.pace import patience, within

SKIPPED = 6
"""The exit status where a test was skipped and none may be: none of pytest's own."""
CANCELS = 5
GUARD = 3
"""An async test that ignores its deadline this many times over blocks the loop: then pytest-timeout raises in it."""


def pytest_configure() -> None:
    # a shell's background job has SIGINT ignored, nohup's SIGHUP, and what the tests start would inherit that
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    # on a busy machine the time that one example takes says nothing
    hypothesis.settings.register_profile("slipway", deadline=None)
    hypothesis.settings.load_profile("slipway")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session", autouse=True)
async def one_loop(anyio_backend: str) -> AsyncIterator[None]:  # noqa: ARG001 - what makes it async
    """One event loop for the whole run: gRPC's poller wakes the loop that it first saw."""
    yield
    # a client of NATS that reconnects can miss one cancellation, and the end of the loop would wait for it for ever
    for _ in range(CANCELS):
        left = [task for task in asyncio.all_tasks() if "_attempt_reconnect" in repr(task.get_coro())]
        if not left:
            return
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=1)


@pytest.fixture(scope="module")
def launch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launch]:
    """How a module's Redis and NATS run: in containers where an engine is there and no other module has it, else as processes."""
    with engine_for_containers(tmp_path_factory.mktemp("docker"), wait=False) as address:
        yield in_containers_of(broker_image(address)) if address else as_process


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--no-skips",
        action="store_true",
        help="a skipped test is a failure of the run, but for those marked beyond_debian",
    )
    parser.addoption("--long", action="store_true", help="also tests that take minutes, marked long")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give each test its deadline: an async one is cancelled alone, any other interrupted by pytest-timeout.

    Files whose tests may take longest come first, so that none of them is left for the end, where the other worker waits.
    """
    longest: defaultdict[Path, float] = defaultdict(float)
    if not config.getoption("--long"):
        late = [item for item in items if item.get_closest_marker("long")]
        items[:] = [item for item in items if item not in late]
        config.hook.pytest_deselected(items=late)
    for item in items:
        marker = item.get_closest_marker("timeout")
        limit = patience(float(marker.args[0] if marker else config.getini("timeout")))
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
            item.obj = within(limit, item.obj)
            limit *= GUARD
        item.add_marker(pytest.mark.timeout(limit), append=False)
        longest[item.path] = max(longest[item.path], limit)
    items.sort(key=lambda item: -longest[item.path])


def pytest_sessionfinish(session: pytest.Session) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if not session.config.getoption("--no-skips") or reporter is None:
        return
    skipped = sum("beyond_debian" not in report.keywords for report in reporter.stats.get("skipped", []))
    if skipped and session.exitstatus in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED}:
        reporter.write_line(f"{skipped} tests were skipped", red=True)
        session.exitstatus = SKIPPED
