"""User namespaces and mounts with mapped ids, as the kernel shows them."""

import os
from pathlib import Path

import pytest

from common.sys import linux, userns
from common.sys.userns import IdMapping, IdMappings

pytestmark = pytest.mark.root
IDS = IdMappings(IdMapping(0, 70_000, 1000), IdMapping(0, 80_000, 500))


def test_an_id_is_that_of_the_host_or_nobodys() -> None:
    assert [IDS.uids.to_host(number) for number in (0, 999, 1000)] == [70_000, 70_999, userns.OVERFLOW_ID]


def test_a_held_namespace_owns_what_is_made_with_it() -> None:
    with userns.held(IDS, "net", "uts") as pid:
        directory = Path(f"/proc/{pid}")
        assert (directory / "uid_map").read_text().split() == ["0", "70000", "1000"]
        assert (directory / "gid_map").read_text().split() == ["0", "80000", "500"]
        for kind, own in (("user", True), ("net", True), ("uts", True), ("ipc", False)):
            same = (directory / "ns" / kind).readlink() == Path(f"/proc/self/ns/{kind}").readlink()
            assert same is not own, kind
    assert not directory.exists()


def test_mappings_that_the_kernel_refuses_are_an_error() -> None:
    with pytest.raises(OSError, match="Invalid argument"):
        userns.open_namespace(IdMappings(IdMapping(0, 2**32 - 1, 1), IDS.gids))


def test_a_view_has_mapped_ids_and_a_filesystem_without_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    namespace = userns.open_namespace(IDS)
    view = userns.open_mapped(str(tmp_path), namespace, linux.MOUNT_ATTR_RDONLY)
    try:
        status = os.stat("file", dir_fd=view)
        assert (status.st_uid, status.st_gid) == (70_000, 80_000)
        with pytest.raises(OSError, match="Read-only"):
            os.open("new", os.O_WRONLY | os.O_CREAT, dir_fd=view)
        with pytest.raises(OSError, match=r"ids cannot be mapped.*'/proc'"):
            userns.open_mapped("/proc", namespace)
    finally:
        os.close(view)
        os.close(namespace)
