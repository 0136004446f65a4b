"""Limits of huge pages on machines with and without them."""

from pathlib import Path
from typing import Any

import pytest

from common.api.cri.v1 import api_pb2 as cri
from common.errors import InvalidArgumentError
from runtimed.oci import hugepages


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """Pages of 2 MiB and 1 GiB, counted by cgroups of both versions."""
    for name in ("pages/hugepages-2048kB", "pages/hugepages-1048576kB", "cgroups/hugetlb"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "cgroups/cgroup.controllers").write_text("cpu hugetlb memory\n")
    return tmp_path


def limits(machine: Path, version: int, **wanted: int) -> list[dict[str, Any]]:
    asked = [cri.HugepageLimit(page_size=f"{size[1:]}", limit=limit) for size, limit in wanted.items()]
    return hugepages.limits(asked, version, pages=machine / "pages", cgroups=machine / "cgroups")


@pytest.mark.parametrize("version", [1, 2])
def test_limits_are_passed_on(machine: Path, version: int) -> None:
    assert limits(machine, version, _2MB=4 << 20, _1GB=0) == [
        {"pageSize": "2MB", "limit": 4 << 20},
        {"pageSize": "1GB", "limit": 0},
    ]


@pytest.mark.parametrize("version", [1, 2])
def test_without_the_controller_only_zeros_are_left_out(machine: Path, version: int) -> None:
    (machine / "cgroups/hugetlb").rmdir()
    (machine / "cgroups/cgroup.controllers").write_text("cpu memory\n")
    assert limits(machine, version, _2MB=0, _1GB=0) == []
    with pytest.raises(InvalidArgumentError, match="hugepage_limits: 2MB = 4096: this node has no hugetlb"):
        limits(machine, version, _2MB=4096)


@pytest.mark.parametrize(
    ("size", "words"), [("_4MB", "not of this machine"), ("_2", "like 2MB"), ("_MB", "like 2MB")]
)
def test_sizes_of_other_machines_are_refused(machine: Path, size: str, words: str) -> None:
    with pytest.raises(InvalidArgumentError, match=words):
        limits(machine, 2, **{size: 0})
