"""Who keeps the processes of a node up, and so where their logs are and what starts them."""

from dataclasses import dataclass

from common.places import CONTAINERS, SYSTEMD
from slipway.connect import facts


@dataclass(frozen=True)
class Upkeep:
    """Words for people: a path or commands."""

    logs: str
    start: str


def upkeep(run_dir: str, *names: str) -> Upkeep:
    """Of these services of a node, or of all."""
    supervisor = facts(run_dir).get("supervisor")
    if supervisor == SYSTEMD:
        units = [f"slipway-{name}" for name in names]
        logs = "".join(f" -u {unit}" for unit in units) or " -u 'slipway-*'"
        return Upkeep(
            f"`journalctl{logs} -o cat`", f"`systemctl start {' '.join(units) or 'slipway.target'}`"
        )
    if supervisor == CONTAINERS:
        of = "".join(f" {name}" for name in names)
        return Upkeep(f"`docker compose -p slipway logs{of}`", f"`docker compose -p slipway start{of}`")
    return Upkeep(f"{run_dir}/log", f"`slipway-node up --run-dir {run_dir}`")
