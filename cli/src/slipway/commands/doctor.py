"""doctor: what on this machine is missing or will bite, with the fix."""

import sys
from argparse import Namespace
from collections.abc import Iterable
from dataclasses import asdict, replace
from typing import Any

import anyio.to_thread

from common.errors import SlipwayError
from common.places import CONTAINERS
from slipway.connect import facts
from slipway.doctor import cgroups, kernel, limits, network, runtimes, services, storage
from slipway.doctor.finding import Finding, Level, Machine
from slipway.doctor.settings import cni_dir, settings
from slipway.output import render
from slipway.upkeep import upkeep

AREAS = (kernel, cgroups, limits, runtimes, network, storage, services)
LOOKS = {Level.OK: "green", Level.NOTE: "cyan", Level.WARN: "yellow", Level.FAIL: "red"}


async def doctor(arguments: Namespace) -> int:
    """Look at all of it; 1 when something fails."""
    known = facts(arguments.run_dir)
    machine = machine_of(arguments.run_dir, known)
    found = await anyio.to_thread.run_sync(examine, machine)
    for ask in (*cgroups.ASKING, *services.ASKING):
        found += await ask(machine, known)
    if arguments.deep:
        found += await deep(machine, known)
    if arguments.report == "json":
        render.document([asdict(finding) for finding in found])
    else:
        _show(found)
    return 1 if any(finding.level is Level.FAIL for finding in found) else 0


def machine_of(run_dir: str, known: dict[str, Any]) -> Machine:
    """This machine, as the node on it is told to use it."""
    told = Machine(
        run_dir=run_dir,
        data_dir=str(known.get("data_dir", "/var/lib/slipway")),
        cni_dir=cni_dir(known),
        in_containers=known.get("supervisor") == CONTAINERS,
    )
    return replace(
        told,
        plugin_dirs=tuple(settings(known, "runtimed").get("cni_bin_dirs", told.plugin_dirs)),
        snapshotter=str(settings(known, "snapshotd").get("snapshotter", told.snapshotter)),
    )


async def deep(machine: Machine, known: dict[str, Any]) -> list[Finding]:
    """Each thing of the node that does not fit what it has recorded; what it gets rid of by itself is a note."""
    from slipway.doctor.deep.examine import differences

    if not known:
        why = services.unknown(machine)
        return [Finding("deep", Level.FAIL, why.text, why.fix)]
    try:
        found = await differences(known)
    except SlipwayError as exc:
        return [Finding("deep", Level.FAIL, exc.message, "Look again once it answers.")]
    logs = upkeep(str(known["run_dir"])).logs
    fix = f"The node repairs itself once a minute; what stays is worth a report, with the logs: {logs}."
    told = [
        Finding(
            f"deep: {one.kind}",
            Level.NOTE if one.passing else Level.FAIL,
            f"{one.name}: {one.what}",
            "" if one.passing else fix,
        )
        for one in found
    ]
    return told or [Finding("deep", Level.OK, "all that is recorded is there, and nothing else")]


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
