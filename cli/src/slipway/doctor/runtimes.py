"""OCI runtimes that are installed, and what is known to be wrong with their versions."""

import gzip
import math
import re
from collections.abc import Callable

from slipway.doctor.finding import Finding, Level, Machine

Version = tuple[int, int, int, float]
"""The last is that of a release candidate, and infinite of a release."""
RELEASE = math.inf


def _runc_masked(v: Version) -> bool:
    return v < (1, 2, 8) or (1, 3, 0) <= v < (1, 3, 3) or (1, 4, 0) <= v < (1, 4, 0, 3)


FLAWS: dict[str, tuple[tuple[str, Callable[[Version], bool], str], ...]] = {
    "runc": (
        ("CVE-2024-21626", lambda v: v < (1, 1, 12), "an image can reach the host by a leaked descriptor"),
        ("CVE-2024-45310", lambda v: v < (1, 1, 14), "an image can make empty files on the host"),
        ("CVE-2025-31133", _runc_masked, "an image can have masked paths and /proc written to"),
    ),
    "crun": (
        ("CVE-2022-27650", lambda v: v < (1, 4, 4), "containers have inheritable capabilities"),
        ("CVE-2026-30892", lambda v: (1, 19, 0) <= v < (1, 27, 0), "`crun exec --user 1` runs as root"),
    ),
}
"""By runtime: the flaw, the versions that have it, and what it lets happen. Slipway gives users by number, in a file."""


def runtimes(machine: Machine) -> list[Finding]:
    if machine.in_containers:
        return [Finding("OCI runtimes", Level.OK, "those of shimd's image, whatever this machine has")]
    found = [finding for name in ("crun", "runc", "runsc") for finding in _runtime(machine, name)]
    if all(finding.level is Level.NOTE and finding.text == "not installed" for finding in found):
        fix = "Install one: `apt-get install crun`."
        return [Finding("OCI runtimes", Level.FAIL, "neither crun nor runc nor runsc is installed", fix)]
    return found


def _runtime(machine: Machine, name: str) -> list[Finding]:
    program = machine.program(name)
    if not program:
        return [Finding(name, Level.NOTE, "not installed")]
    told = machine.said(program, "--version")
    version = parse(told)
    if version is None:
        return [Finding(name, Level.WARN, f"{program} does not tell its version", "Install it anew.")]
    text = told.split()[2]
    patched = _patched(machine, name)
    flaws = [flaw for flaw in FLAWS.get(name, ()) if flaw[1](version) and flaw[0] not in patched]
    if not flaws:
        return [Finding(name, Level.OK, text)]
    fix = f"Install a newer {name}; this one's changelog tells of no patch."
    return [Finding(name, Level.WARN, f"{text} has {cve}: {what}", fix) for cve, _, what in flaws]


def parse(text: str) -> Version | None:
    """The version in what `NAME --version` tells; what is missing of it is 0."""
    found = re.match(r"\S+ version v?(?:release-)?(\d+)\.?(\d+)?(?:\.(\d+))?(?:[-~]rc\.?(\d+))?", text)
    if not found:
        return None
    return int(found[1]), int(found[2] or 0), int(found[3] or 0), int(found[4]) if found[4] else RELEASE


def _patched(machine: Machine, package: str) -> set[str]:
    """Flaws that the distribution has mended without a new version, by its changelog."""
    try:
        text = gzip.decompress(machine.at(f"/usr/share/doc/{package}/changelog.Debian.gz").read_bytes())
    except (OSError, EOFError):
        return set()
    return set(re.findall(r"CVE-\d+-\d+", text.decode(errors="replace")))


CHECKS = (runtimes,)
