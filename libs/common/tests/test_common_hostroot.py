"""Paths of the host for a service in a container: each leads where it does on the host, and never into our own root."""

from pathlib import Path

import pytest

from common.sys.hostroot import HostRoot


@pytest.fixture
def host(tmp_path: Path) -> Path:
    (tmp_path / "srv/data").mkdir(parents=True)
    (tmp_path / "mnt/disk/pods").mkdir(parents=True)
    (tmp_path / "var").mkdir()
    (tmp_path / "var/absolute").symlink_to("/mnt/disk")
    (tmp_path / "var/relative").symlink_to("../srv")
    (tmp_path / "var/upwards").symlink_to("../../../../../srv/data")
    (tmp_path / "var/twice").symlink_to("absolute/pods")
    (tmp_path / "var/nowhere").symlink_to("/not/there")
    (tmp_path / "var/circle").symlink_to("circle")
    return tmp_path


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/", ""),
        ("/srv/data", "/srv/data"),
        ("//srv/./data/", "/srv/data"),
        ("/srv/data/../../../etc", "/etc"),
        ("/var/absolute/pods/new/file", "/mnt/disk/pods/new/file"),
        ("/var/relative/data", "/srv/data"),
        ("/var/relative/..", ""),
        ("/var/upwards", "/srv/data"),
        ("/var/twice/x", "/mnt/disk/pods/x"),
        ("/var/nowhere", "/not/there"),
        ("/run/slipway/volumes/x", None),
        ("/run/slipway-of-another", "/run/slipway-of-another"),
    ],
)
def test_a_path_leads_where_it_does_on_the_host(host: Path, path: str, found: str | None) -> None:
    root = HostRoot(str(host), ["/run/slipway"])
    if found is None:
        assert root.here(path) == root.told(path) == path, "it is at the same place inside and outside"
    else:
        assert root.here(path) == f"{host}{found}"
        assert root.told(root.here(path)) == (found or "/")


def test_links_that_lead_to_each_other_are_an_error(host: Path) -> None:
    with pytest.raises(OSError, match="symbolic links"):
        HostRoot(str(host)).here("/var/circle/x")


def test_without_a_root_of_the_host_paths_are_left_alone(host: Path) -> None:
    path = str(host / "var/relative/../x")
    assert HostRoot().here(path) == HostRoot().told(path) == path
