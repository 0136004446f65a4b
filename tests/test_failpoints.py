"""The registry of failpoints, the code that has them, and the kill matrix that is made of them."""

import ast
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from common import failpoint
from common.failpoint import POINTS, Step
from slipway.doctor.deep.history import Told
from tests.support.eventually import until
from torture.kills import RUNTIME, SHIM
from torture.matrix import EVERYWHERE, LIVES, OCI, Row, rows, sample, untold

ROOT = Path(__file__).parent.parent
SOURCES = [path for path in ROOT.glob("services/*/src/**/*.py") if "_pb2" not in path.name]
CI_ROWS = 20


def placed() -> dict[str, Path]:
    """Where each failpoint is in the code; the first word of its name is the service."""
    found: dict[str, Path] = {}
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "failpoint":
                [name] = node.args
                assert isinstance(name, ast.Constant), f"{path}: a failpoint's name is written out"
                assert isinstance(name.value, str), f"{path}: a failpoint's name is text"
                assert name.value not in found, f"{name.value} is in two places"
                found[name.value] = path
    return found


def test_the_registry_has_each_failpoint_of_the_code_and_no_other() -> None:
    found = placed()
    assert set(found) == set(POINTS)
    for name, path in found.items():
        assert f"services/{name.partition('.')[0]}/" in str(path)


def test_each_failpoint_has_a_row_for_every_victim_and_each_step_has_failpoints() -> None:
    by_point: dict[str, set[str]] = {}
    for row in rows():
        by_point.setdefault(row.point, set()).add(row.victim)
    assert set(by_point) == {*POINTS, *OCI}
    assert all(set(EVERYWHERE) <= victims for victims in by_point.values())
    assert {row.step for row in rows()} == set(Step)
    for step in (Step.START, Step.EXEC, Step.ROTATE, Step.STOP):
        assert any(row.step is step and row.victim == SHIM for row in rows())
    assert {row.point for row in rows() if row.victim == RUNTIME} == set(OCI)
    assert len(set(rows())) == len(rows())


def test_the_sample_of_ci_has_every_step_and_is_always_the_same() -> None:
    chosen = sample(CI_ROWS)
    assert chosen == sample(CI_ROWS)
    assert len(chosen) == CI_ROWS
    assert {row.step for row in chosen} == set(Step)
    assert len({row.victim for row in chosen}) >= len(EVERYWHERE)


def test_events_that_a_life_lacks_are_told_with_their_row() -> None:
    row = Row("oci.run", "redis")
    whole = {"container": {"short": row, "long": row}, "sandbox": {"none": row}}
    seen = {"container": {"short": ["created", "removed"], "long": LIVES["container"]}, "sandbox": {}}
    assert untold(whole, Told(seen)) == [
        f"{row}: events of its container: created removed",
        f"{row}: events of its sandbox: ",
    ]


@pytest.fixture
def armed(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / failpoint.DIRECTORY
    directory.mkdir()
    failpoint.setup(str(tmp_path))
    yield directory
    failpoint.setup(str(tmp_path / "nowhere"))


@pytest.mark.anyio
async def test_an_armed_failpoint_holds_who_comes_first_until_it_is_let_go(armed: Path) -> None:
    name = "runtimed.start.ran"
    (armed / name).touch()
    passed: list[int] = []

    async def come(number: int) -> None:
        await failpoint.failpoint(name)
        passed.append(number)

    async with anyio.create_task_group() as group:
        group.start_soon(come, 1)
        await until((armed / f"{name}{failpoint.REACHED}").exists, "the first to be held")
        await come(2)
        assert passed == [2]
        (armed / f"{name}{failpoint.REACHED}").unlink()
    assert passed == [2, 1]


@pytest.mark.anyio
async def test_nothing_holds_on_a_node_that_is_not_of_a_test(tmp_path: Path) -> None:
    failpoint.setup(str(tmp_path))
    (tmp_path / "runtimed.start.ran").touch()
    await failpoint.failpoint("runtimed.start.ran")
    assert (tmp_path / "runtimed.start.ran").exists()
