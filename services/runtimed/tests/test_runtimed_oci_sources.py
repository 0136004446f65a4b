"""Host paths of mounts: followed, made, refused; and what propagates."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.api.cri.v1 import api_pb2 as cri
from common.errors import InvalidArgumentError
from common.sys import linux
from common.sys.hostroot import HostRoot
from runtimed.oci import mounts, sources

HOST_TO_CONTAINER, BIDIRECTIONAL = cri.PROPAGATION_HOST_TO_CONTAINER, cri.PROPAGATION_BIDIRECTIONAL


def container(path: Path | str, **fields: Any) -> cri.ContainerConfig:
    return cri.ContainerConfig(mounts=[cri.Mount(container_path="/x", host_path=str(path), **fields)])


def prepared(path: Path | str, **fields: Any) -> sources.Source:
    (found,) = sources.prepare(container(path, **fields), ("/etc/absent-for-slipway",), HostRoot())
    return found


@pytest.fixture
def own_mount(tmp_path: Path) -> Iterator[Path]:
    """A private mount of its own."""
    linux.mount("none", str(tmp_path), "tmpfs")
    linux.mount("none", str(tmp_path), None, linux.MS_PRIVATE)
    yield tmp_path
    linux.umount(str(tmp_path), linux.MNT_DETACH)


def test_a_missing_source_is_made_with_its_parents_for_everyone_to_enter(tmp_path: Path) -> None:
    old = os.umask(0o077)
    try:
        assert prepared(tmp_path / "a/b") == (str(tmp_path / "a/b"), True)
    finally:
        os.umask(old)
    assert [path.stat().st_mode & 0o777 for path in (tmp_path / "a", tmp_path / "a/b")] == [0o755, 0o755]


def test_a_symbolic_link_is_followed_and_the_target_is_mounted(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "up").symlink_to(tmp_path)
    assert prepared(tmp_path / "up/link") == (str(tmp_path / "file"), False)


def test_a_link_of_proc_that_cannot_be_read_is_refused_by_name() -> None:
    with subprocess.Popen(["/bin/true"]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # an ended process has no exe
        with pytest.raises(
            InvalidArgumentError, match=rf"mounts.host_path: '/proc/{child.pid}/exe': No such"
        ):
            prepared(f"/proc/{child.pid}/exe")


def test_odd_sources_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("nothing")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").touch()
    with pytest.raises(InvalidArgumentError, match=r"link' is a symbolic link to nothing"):
        prepared(tmp_path / "link")
    with pytest.raises(InvalidArgumentError, match=r"mounts.host_path: '.*loop'"):
        prepared(tmp_path / "loop")
    with pytest.raises(InvalidArgumentError, match=r"file/below': Not a directory"):
        prepared(tmp_path / "file/below")
    with pytest.raises(InvalidArgumentError, match=r"'/etc/absent-for-slipway' is missing and never made"):
        prepared("/etc/absent-for-slipway")
    assert not Path("/etc/absent-for-slipway").exists()
    assert not (tmp_path / "nothing").exists()


def test_host_paths_are_looked_for_where_the_host_is(tmp_path: Path) -> None:
    host = HostRoot(str(tmp_path), [])
    (tmp_path / "srv").mkdir()
    (tmp_path / "link").symlink_to("/srv/new")
    (tmp_path / "dangling").symlink_to("/nothing")
    (made,) = sources.prepare(container("/srv/new/deep"), (), host)
    assert made == (str(tmp_path / "srv/new/deep"), True)
    (followed,) = sources.prepare(container("/link/deep"), (), host)
    assert followed == made
    with pytest.raises(InvalidArgumentError, match=r"'/dangling' is a symbolic link to nothing"):
        sources.prepare(container("/dangling"), (), host)
    with pytest.raises(InvalidArgumentError, match=r"'/etc/hosts' is missing and never made"):
        sources.prepare(container("/etc/hosts"), ("/etc/hosts",), host)


@pytest.mark.root
def test_propagation_wants_a_mount_that_propagates(own_mount: Path) -> None:
    for wanted, words in ((HOST_TO_CONTAINER, "shared or slave"), (BIDIRECTIONAL, "shared")):
        with pytest.raises(InvalidArgumentError, match=rf"mounts.propagation: .* is not on a {words} mount"):
            prepared(own_mount / "d", propagation=wanted)
    linux.mount("none", str(own_mount), None, linux.MS_SHARED)
    for wanted in (HOST_TO_CONTAINER, BIDIRECTIONAL):
        assert prepared(own_mount / "d", propagation=wanted).is_directory


@pytest.mark.parametrize("name", ["dev", "proc", "sys"])
def test_a_root_with_links_for_the_kernels_directories_is_refused(tmp_path: Path, name: str) -> None:
    mounts.check_root(str(tmp_path))
    (tmp_path / name).symlink_to("/tmp")
    with pytest.raises(InvalidArgumentError, match=f"image: /{name} is a symbolic link"):
        mounts.check_root(str(tmp_path))


def test_the_root_propagates_as_much_as_the_most_open_mount() -> None:
    config = cri.ContainerConfig()
    assert mounts.rootfs_propagation(config) == ""
    config.mounts.add(propagation=HOST_TO_CONTAINER)
    assert mounts.rootfs_propagation(config) == "rslave"
    config.mounts.add(propagation=BIDIRECTIONAL)
    assert mounts.rootfs_propagation(config) == "rshared"
