"""doctor: what on this machine is missing or will bite, with the fix."""

import sys
from argparse import Namespace
from collections.abc import Iterable
from dataclasses import asdict

import anyio.to_thread

from slipway import render
from slipway.connect import facts
from slipway.doctor import cgroups, kernel, limits, network, runtimes, services, storage
from slipway.doctor.finding import Finding, Level, Machine

AREAS = (kernel, cgroups, limits, runtimes, network, storage, services)
LOOKS = {Level.OK: "green", Level.NOTE: "cyan", Level.WARN: "yellow", Level.FAIL: "red"}


async def doctor(arguments: Namespace) -> int:
    """Look at all of it; 1 when something fails."""
    known = facts(arguments.run_dir)
    machine = Machine(
        run_dir=arguments.run_dir,
        data_dir=str(known.get("data_dir", "/var/lib/slipway")),
        cni_dir=str(known.get("cni_dir", "/etc/cni/net.d")),
    )
    found = await anyio.to_thread.run_sync(examine, machine)
    for ask in services.ASKING:
        found += await ask(machine, known)
    if arguments.report == "json":
        render.document([asdict(finding) for finding in found])
    else:
        _show(found)
    return 1 if any(finding.level is Level.FAIL for finding in found) else 0


def examine(machine: Machine) -> list[Finding]:
    """All checks that only look. Blocking."""
    found: list[Finding] = []
    for area in AREAS:
        for check in area.CHECKS:
            answer = check(machine)
            found += answer if isinstance(answer, list) else [answer]
    return found


def _show(found: Iterable[Finding]) -> None:
    rows = list(found)
    width = max(len(finding.name) for finding in rows)
    for finding in rows:
        level = render.styled(f"{finding.level:<4}", LOOKS[finding.level])
        sys.stdout.write(f"{level}  {finding.name:<{width}}  {render.sentence(finding.text)}\n")
        if finding.fix:
            sys.stdout.write(f"{'':<{width + 8}}-> {render.sentence(finding.fix)}\n")
    counts = [f"{sum(f.level is level for f in rows)} {level}" for level in Level]
    sys.stdout.write(", ".join(counts) + "\n")
