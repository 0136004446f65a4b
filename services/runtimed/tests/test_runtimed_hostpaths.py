"""A filesystem that never answers: a FUSE mount whose server says nothing."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import anyio
import pytest

from common.errors import FailedPreconditionError
from common.sys import linux
from common.sys.hostroot import HostRoot
from runtimed.use.hostpaths import HostPaths
from tests.support.eventually import until

pytestmark = [pytest.mark.anyio, pytest.mark.root]


class Dead:
    """A mount that hangs whoever looks at it, until it is let go."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        self._server = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        linux.mount("dead", str(path), "fuse", 0, f"fd={self._server},rootmode=40000,user_id=0,group_id=0")

    def let_go(self) -> None:
        if self._server >= 0:
            os.close(self._server)
        self._server = -1

    def close(self) -> None:
        self.let_go()
        linux.umount(str(self.path), linux.MNT_DETACH)


@pytest.fixture
def dead(tmp_path: Path) -> Iterator[Dead]:
    made = Dead(tmp_path / "dead")
    yield made
    with suppress(OSError):
        made.close()


async def test_a_dead_path_is_named_and_then_refused_at_once_while_others_work(
    dead: Dead, tmp_path: Path
) -> None:
    hostpaths = HostPaths(HostRoot(), 0.3)
    volume = str(dead.path / "volume")
    with pytest.raises(FailedPreconditionError, match=r"mounts.host_path: '.*/dead/volume' did not answer"):
        await hostpaths.check("mounts.host_path", [str(tmp_path), volume])
    with anyio.fail_after(0.2), pytest.raises(FailedPreconditionError, match="still does not answer"):
        await hostpaths.check("mounts.host_path", [volume])
    with anyio.fail_after(0.2):
        await hostpaths.check("mounts.host_path", [str(tmp_path), str(tmp_path / "absent")])
    dead.let_go()

    async def answers() -> bool:
        await hostpaths.check("mounts.host_path", [volume])
        return True

    await until(answers, "the volume to answer", within_s=5, but=FailedPreconditionError)
