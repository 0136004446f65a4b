"""A shim that hangs in the middle of a start: an OCI runtime stops it, and runs the container meanwhile."""

import os
import signal
from collections.abc import Iterator
from functools import partial

import anyio
import pytest

from common.api.cri.v1 import api_pb2 as cri
from common.errors import UnavailableError
from services.runtimed.tests.daemons import Daemons, Pods, executable, handler, needs, running_daemons
from tests.support import cgroups
from tests.support.eventually import until

pytestmark = needs("crun")
STOPS_ITS_SHIM = """#!/bin/sh
case " $* " in *" run "*)
    for id; do :; done
    keeper=$(cut -d' ' -f1 "$SHIMS/$id/pid")
    echo $keeper $PPID > {base}/stopped
    kill -STOP $keeper $PPID
esac
exec crun "$@"
"""


@pytest.fixture(scope="module")
def daemons(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemons]:
    base = tmp_path_factory.mktemp("stops")
    program = executable(base / "stops-its-shim", STOPS_ITS_SHIM.format(base=base))
    with running_daemons(**handler("crun", program), reconcile_every_s="0.2") as found:
        program.write_text(program.read_text().replace("$SHIMS", str(found.base / "run" / "shimd" / "shims")))
        yield found


async def unknown(pods: Pods) -> str:
    """A container of which a new runtimed cannot know whether it was started."""
    stopped = pods.daemons.program.parent / "stopped"
    stopped.unlink(missing_ok=True)
    config = pods.sandbox_config()
    sandbox_id = await pods.client.run_sandbox(config)
    wanted = pods.container_config("sleep", "1000")
    container_id = await pods.client.create_container(sandbox_id, wanted, config, pods.image())
    async with anyio.create_task_group() as group:
        group.start_soon(_cut_off, pods, container_id)
        await until(stopped.exists, "the shim to be stopped", within_s=30)
        pods.daemons.kill("runtimed")
    pods.daemons.start("runtimed")
    await pods.reached(container_id, cri.CONTAINER_UNKNOWN)
    return container_id


async def _cut_off(pods: Pods, container_id: str) -> None:
    with pytest.raises(UnavailableError):
        await pods.client.start_container(container_id)


async def test_it_runs_once_the_shim_says_so(pods: Pods) -> None:
    container_id = await unknown(pods)
    for pid in (pods.daemons.program.parent / "stopped").read_text().split():
        os.kill(int(pid), signal.SIGCONT)
    await pods.reached(container_id, cri.CONTAINER_RUNNING)
    assert (await pods.client.exec_sync(container_id, ["echo", "here"])).stdout == b"here\n"
    await pods.client.stop_container(container_id, 0)
    assert (await pods.status(container_id)).exit_code == 137


async def test_its_stop_ends_what_the_shim_had_started(pods: Pods) -> None:
    container_id = await unknown(pods)
    places = partial(cgroups.files, container_id, "cgroup.procs")
    await until(places, "the container of the stopped shim", within_s=30)
    await pods.client.stop_container(container_id, 30)
    status = await pods.status(container_id)
    assert (status.state, status.exit_code, status.reason) == (cri.CONTAINER_EXITED, 255, "Unknown")
    assert not places()
