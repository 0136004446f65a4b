"""A sample of the kill matrix: at a failpoint of each step a process dies, and the pod's life goes on to its end.

`./dev torture --matrix` goes through all of it.
"""

import os

import pytest

from common.failpoint import Step
from tests.test_failpoints import CI_ROWS
from torture.main import matrix
from torture.matrix import sample

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(420)]


@pytest.mark.skipif(os.geteuid() != 0, reason="a node needs root")
async def test_a_death_at_a_step_loses_nothing() -> None:
    found = await matrix(sample(CI_ROWS))
    assert len(found.done) == CI_ROWS
    assert not found.problems
    told = found.section()
    assert (told.faults, told.survived) == (CI_ROWS, CI_ROWS)
    assert [row[0] for row in told.tables[0].rows] == list(Step)
    assert told.worst_s > 0
