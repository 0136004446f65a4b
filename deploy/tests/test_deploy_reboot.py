"""After the reboot: the node is back by itself, the pod is known and not ready; then all of it is taken away."""

from collections.abc import AsyncIterator
from pathlib import Path

import anyio.to_thread
import pytest

from common.api.cri.v1 import api_pb2 as cri_pb
from devtools.cri import Cri, connect
from tests.support.installed import LOGS, RUN_DIR, SOCKET, UNITS, pid_of, run, start_pod
from tests.support.node import differences

pytestmark = [pytest.mark.anyio, pytest.mark.root, pytest.mark.timeout(300)]


@pytest.fixture
async def cri() -> AsyncIterator[Cri]:
    async with connect(SOCKET, LOGS) as client:
        yield client


async def test_the_node_is_back_and_knows_what_ended(cri: Cri) -> None:
    await cri.call(cri.runtime.Version, cri_pb.VersionRequest())  # waits in the socket until crid is there
    for unit in [*UNITS, "slipway.target"]:
        assert run("systemctl", "is-active", unit).strip() == "active"
    (sandbox,) = (await cri.call(cri.runtime.ListPodSandbox, cri_pb.ListPodSandboxRequest())).items
    assert sandbox.state == cri_pb.SANDBOX_NOTREADY
    (container,) = (await cri.call(cri.runtime.ListContainers, cri_pb.ListContainersRequest())).containers
    assert container.state == cri_pb.CONTAINER_EXITED
    assert await differences(RUN_DIR) == []


async def test_uninstall_refuses_while_containers_run_and_then_leaves_what_is_the_operators(cri: Cri) -> None:
    (image,) = (await cri.call(cri.images.ListImages, cri_pb.ListImagesRequest())).images
    _, container_id = await start_pod(
        cri, "again", image.repo_tags[0], ["sleep", "1000"], network=cri_pb.NODE
    )
    said = await anyio.to_thread.run_sync(lambda: run("./dev", "uninstall", status=1))
    assert f"1 containers run, {container_id} for one" in said
    assert await pid_of(cri, container_id)
    await cri.remove_all()
    assert await differences(RUN_DIR) == []
    await anyio.to_thread.run_sync(run, "./dev", "uninstall")
    assert run("systemctl", "list-unit-files", "slipway*", "--no-legend", status=1) == ""
    assert run("systemctl", "list-units", "--all", "slipway*", "--no-legend") == ""
    assert left() == []
    assert "slipway" not in Path("/proc/self/mountinfo").read_text().replace(str(Path.cwd()), "")
    assert Path("/etc/slipway/node.toml").exists()
    assert Path("/var/lib/slipway").exists()
    await anyio.to_thread.run_sync(run, "./dev", "uninstall", "--purge")
    assert not Path("/etc/slipway").exists()
    assert not Path("/var/lib/slipway").exists()


def left() -> list[str]:
    """Files, folders and cgroups with Slipway's name, but for settings, data and what is the tests' own."""
    found = run("find", "/opt", "/run", "/usr", "/etc", "/sys/fs/cgroup", "-name", "*slipway*").splitlines()
    kept = ("/etc/slipway", "/etc/cni", "/run/systemd/")  # systemd forgets units when it likes
    return [path for path in found if not path.startswith(kept)]
