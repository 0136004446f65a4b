"""Limits of huge pages: those that the node can have and can count."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from common.errors import InvalidArgumentError

PAGES = Path("/sys/kernel/mm/hugepages")
CGROUPS = Path("/sys/fs/cgroup")
_SIZE = re.compile(r"([1-9]\d{0,9})([KMG]B)")
_KIB = {"KB": 1, "MB": 1 << 10, "GB": 1 << 20}


def limits(
    wanted: Iterable[Any], version: int, *, pages: Path = PAGES, cgroups: Path = CGROUPS
) -> list[dict[str, Any]]:
    """`linux.resources.hugepageLimits` for CRI's hugepage_limits.

    A kubelet limits each size that the node has, by 0 where the pod wants none. Where the kernel cannot count
    (no hugetlb controller) these are left out, and any other is refused.

    Raises:
        InvalidArgumentError: the size is none of this machine, or cannot be limited here.
    """
    found = []
    for limit in wanted:
        match = _SIZE.fullmatch(limit.page_size)
        if not match:
            raise InvalidArgumentError(f"hugepage_limits: page_size {limit.page_size!r} is not like 2MB")
        if not (pages / f"hugepages-{int(match[1]) * _KIB[match[2]]}kB").exists():
            raise InvalidArgumentError(f"hugepage_limits: page_size {limit.page_size!r}: not of this machine")
        if _counted(version, cgroups):
            found.append({"pageSize": limit.page_size, "limit": limit.limit})
        elif limit.limit:
            raise InvalidArgumentError(
                f"hugepage_limits: {limit.page_size} = {limit.limit}: this node has no hugetlb controller"
            )
    return found


def _counted(version: int, cgroups: Path) -> bool:
    if version == 1:
        return (cgroups / "hugetlb").is_dir()
    return "hugetlb" in (cgroups / "cgroup.controllers").read_text(encoding="ascii").split()
