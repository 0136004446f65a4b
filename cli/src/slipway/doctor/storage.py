"""The disk below the data directory."""

import os
import time
from pathlib import Path

from slipway.doctor.finding import Finding, Level, Machine

FULL, NEARLY = 95.0, 85.0
SMALL_BYTES = 5 << 30
_NO_UPPER = ("overlay", "nfs", "nfs4", "fuse", "vfat", "9p", "virtiofs")
"""Filesystems on which overlayfs cannot write, or not well."""


def disk(machine: Machine) -> list[Finding]:
    found = os.statvfs(_existing(machine.at(machine.data_dir)))
    used = found.f_blocks - found.f_bfree
    free_bytes = found.f_bavail * found.f_frsize
    percent = 100 * used / max(1, used + found.f_bavail)
    text = f"{percent:.0f} % of the disk of {machine.data_dir} in use, {free_bytes / 1e9:.1f} GB free"
    fix = "`slipway rmi` images that nothing uses, or move data_dir."
    level = (
        Level.FAIL
        if percent >= FULL
        else Level.WARN
        if percent >= NEARLY or free_bytes < SMALL_BYTES
        else Level.OK
    )
    findings = [Finding("disk", level, text, "" if level is Level.OK else fix)]
    if found.f_files:
        taken = 100 * (found.f_files - found.f_ffree) / found.f_files
        level = Level.FAIL if taken >= FULL else Level.WARN if taken >= NEARLY else Level.OK
        findings.append(Finding("inodes", level, f"{taken:.0f} % in use", "" if level is Level.OK else fix))
    return findings


def filesystem(machine: Machine) -> Finding:
    kind = _kind(machine)
    if machine.snapshotter == "native":
        return Finding(
            "filesystem", Level.OK, f"{machine.data_dir} is on {kind or 'an unknown one'}, and is copied on"
        )
    if kind in _NO_UPPER or kind.startswith("fuse."):
        fix = 'Put data_dir on ext4, xfs or btrfs, or set snapshotter = "native" for snapshotd.'
        return Finding(
            "filesystem", Level.FAIL, f"{machine.data_dir} is on {kind}: overlayfs cannot write there", fix
        )
    return Finding("filesystem", Level.OK, f"{machine.data_dir} is on {kind or 'an unknown one'}")


def redis_log(machine: Machine) -> list[Finding]:
    """What was cut off Redis' log, and nobody has looked at since (node/redislog.py)."""
    found = sorted(machine.at(f"{machine.data_dir}/redis/appendonlydir").glob("*.damaged"))
    return [
        Finding(
            "Redis' log",
            Level.NOTE,
            f"was mended on {time.strftime('%Y-%m-%d %H:%M', time.localtime(path.stat().st_mtime))}: its end was no commands",
            f"See that `slipway doctor --deep` finds nothing, then remove {path}, the log as it was.",
        )
        for path in found
    ]


def _kind(machine: Machine) -> str:
    """The type of the filesystem that the data directory is on, by the longest mount point."""
    best, kind = "", ""
    root = str(machine.root.resolve()).rstrip("/")
    where = str(machine.at(machine.data_dir).resolve()).removeprefix(
        root
    )  # mount points are without symlinks
    for line in machine.read("/proc/self/mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        point = left.split()[4]
        inside = f"{where}/".startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, right.split()[0]
    return kind


def _existing(path: Path) -> Path:
    """The path, or the nearest parent that is there."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


CHECKS = (disk, filesystem, redis_log)
