"""What a node has on its machine: directories, mounts, processes, cgroups, addresses, rules, blobs. Looks, and changes nothing."""

import os
import re
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from common import cniconf
from common.errors import InvalidArgumentError
from common.sys.mountinfo import mount_points
from slipway.doctor.deep import processes

RULES_S = 10.0
_ID = re.compile(r"[0-9a-f]{64}")
_RULE_ID = re.compile(r"[0-9a-f]{64}|[0-9a-f]{12,63}(?=[\"\\])")
_DEFAULT_ADDRESSES = "/var/lib/cni/networks"
_TEMPORARY = (".*.new", ".new-*", "*.tmp")
_RECORD = "record.msgpack"


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """One look at a machine; names are ids of objects where nothing else is said."""

    mounts: list[str]
    """Mount points of sandboxes, bundles and snapshots."""
    shims: dict[str, bool]
    """Whether each lives."""
    pauses: dict[str, bool]
    bundles: list[str]
    sandboxes: list[str]
    """Directories with the namespaces of a sandbox."""
    copies: dict[str, dict[str, Path]]
    """Files with the copy of a record, by kind and id."""
    empty: list[str]
    """Directories of records without a copy of one."""
    snapshots: list[str]
    layers: list[str]
    blobs: dict[str, Path]
    """By digest."""
    partial: list[str]
    """Digests of blobs that are not whole."""
    temporary: list[str]
    """Paths of files that are written under another name first, and of what is being removed."""
    cni: list[str]
    """Sandboxes of which CNI's ADD is remembered."""
    addresses: dict[str, str]
    """Sandbox by IP address, of the networks of this node."""
    rules: list[str]
    """Sandboxes with rules for ports in the packet filter, of the networks of this node."""
    cgroups: dict[str, list[str]]
    """Directories by the container that they are named for, of all nodes of the machine."""
    processes: dict[str, list[int]] = field(default_factory=dict)
    """Those in such cgroups."""
    lost: dict[str, str] = field(default_factory=dict)
    """Names of processes of this node, by pid, that no service, shim or pause accounts for."""
    plugins: dict[str, str] = field(default_factory=dict)
    """Names of CNI's that run, by pid."""
    servers: dict[str, str] = field(default_factory=dict)
    """Likewise of those that serve lazy layers."""

    def left(self) -> dict[str, list[str]]:
        """What pods have on this node: empty lists once all are removed."""
        records = [name for kind in ("container", "sandbox") for name in self.copies[kind]]
        return {
            "mounts": self.mounts,
            "shims": sorted(self.shims),
            "pauses": sorted(self.pauses),
            "bundles": self.bundles,
            "sandboxes": self.sandboxes,
            "records": sorted(records + self.empty),
            "snapshots": self.snapshots,
            "cni": self.cni,
            "addresses": sorted(self.addresses.values()),
            "rules": self.rules,
            "temporary": self.temporary,
            "processes": sorted(
                f"{pid} {name}" for pid, name in (self.lost | self.plugins | self.servers).items()
            ),
        }


def take(run_dir: Path, data_dir: Path, cni_dir: Path) -> Inventory:
    """Look at the machine. Blocking."""
    runtimed = data_dir / "runtimed"
    kinds = {
        "container": runtimed / "containers",
        "sandbox": runtimed / "sandboxes",
        "layer": data_dir / "snapshotd" / "layers",
        "snapshot": data_dir / "snapshotd" / "snapshots",
        "image": data_dir / "imaged" / "images",
    }
    copies = {kind: {p.parent.name: p for p in where.glob(f"*/{_RECORD}")} for kind, where in kinds.items()}
    networks = dict(_networks(cni_dir))
    started = processes.started(run_dir, data_dir)
    cgroups = _cgroups()
    inside = {name: pids_of(paths) for name, paths in cgroups.items()}
    shims, pauses = (_living(run_dir / "shimd" / kind) for kind in ("shims", "pauses"))
    known = {*shims.values(), *pauses.values(), *(pid for pids in inside.values() for pid in pids)}
    lost = processes.unaccounted(started, known - {0}, _living_pid(run_dir / "shimd" / "zygote"))
    return Inventory(
        mounts=_mounts(str(run_dir)),
        shims={name: bool(pid) for name, pid in shims.items()},
        pauses={name: bool(pid) for name, pid in pauses.items()},
        bundles=_names(run_dir / "runtimed" / "bundles"),
        sandboxes=_names(run_dir / "runtimed" / "sandboxes"),
        copies=copies,
        empty=[
            name
            for kind in ("container", "sandbox", "image")
            for name, path in _entries(kinds[kind])
            if not any(path.glob("record.*"))
        ],
        snapshots=[name for name in _names(kinds["snapshot"]) if not name.startswith(".new-")],
        layers=[name for name in _names(kinds["layer"]) if not name.startswith(".new-")],
        blobs={
            f"{path.parent.name}:{path.name}": path for path in (data_dir / "imaged" / "blobs").glob("*/*")
        },
        partial=_names(data_dir / "imaged" / "ingest"),
        temporary=sorted(_temporary(run_dir, data_dir)),
        cni=[name.partition("-")[0] for name in _names(runtimed / "cni") if name.endswith(".json")],
        addresses=_addresses(networks),
        rules=sorted(_rules(set(networks))),
        cgroups=cgroups,
        processes=inside,
        lost={str(each.pid): each.name for each in lost},
        plugins={str(each.pid): each.name for each in started.values() if each.is_plugin},
        servers={str(each.pid): each.name for each in started.values() if each.is_keeper},
    )


def _entries(directory: Path) -> list[tuple[str, Path]]:
    try:
        return sorted((path.name, path) for path in directory.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _names(directory: Path) -> list[str]:
    return [name for name, _ in _entries(directory)]


def _mounts(run: str) -> list[str]:
    """Below RUN_DIR/SERVICE/KIND: what is above is the node's own."""
    return [
        path
        for path, _ in mount_points()
        if path.startswith(f"{run}/") and path.count("/") > run.count("/") + 2
    ]


def _living(directory: Path) -> dict[str, int]:
    """Pids by name; 0 of one that has ended."""
    return {name: _living_pid(path / "pid") for name, path in _entries(directory)}


def _living_pid(file: Path) -> int:
    """The process that a pid file means; 0 when it is not there, or a zombie."""
    try:
        pid, start = file.read_text().split()
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return 0
    return int(pid) if fields[19] == start and fields[0] not in ("Z", "X") else 0


def _temporary(run_dir: Path, data_dir: Path) -> Iterator[str]:
    places = [
        *(data_dir / "runtimed" / kind for kind in ("containers", "sandboxes", "cni")),
        *(data_dir / "snapshotd" / kind for kind in ("layers", "snapshots")),
        data_dir / "imaged" / "images",
        run_dir / "runtimed" / "bundles",
    ]
    for place in places:
        for pattern in _TEMPORARY:
            yield from map(str, (*place.glob(pattern), *place.glob(f"*/{pattern}")))
    yield from map(str, (data_dir / "snapshotd" / "trash").glob("*"))


def _networks(cni_dir: Path) -> Iterator[tuple[str, str]]:
    """Name of each network of the node, and where its plugin host-local keeps addresses."""
    for path in cniconf.candidates(cni_dir):
        try:
            conf = cniconf.read(path)
        except InvalidArgumentError:
            continue  # runtimed refuses it as well, and says so
        plugins = [found for plugin in conf.plugins if isinstance(found := plugin.get("ipam"), dict)]
        where = next((ipam.get("dataDir", "") for ipam in plugins if ipam.get("type") == "host-local"), "")
        yield conf.name, str(where or _DEFAULT_ADDRESSES)


def _addresses(networks: dict[str, str]) -> dict[str, str]:
    found = {}
    for name, where in networks.items():
        for address, path in _entries(Path(where, name)):
            if address[0].isdigit() or ":" in address:
                try:
                    found[address] = path.read_text().split()[0]
                except (OSError, IndexError):
                    found[address] = ""
    return found


def _rules(networks: set[str]) -> set[str]:
    """Sandboxes in the comments of rules that name one of the networks."""
    found: set[str] = set()
    for command in (["iptables-save"], ["ip6tables-save"], ["nft", "list", "ruleset"]):
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=RULES_S, check=False)
        except (OSError, subprocess.TimeoutExpired):
            continue
        for line in done.stdout.splitlines():
            if any(name in line for name in networks):
                found |= set(_RULE_ID.findall(line))
    return found


def _cgroups() -> dict[str, list[str]]:
    found: defaultdict[str, list[str]] = defaultdict(list)
    for path, _, _ in os.walk("/sys/fs/cgroup"):
        if match := _ID.search(path.rpartition("/")[2]):
            found[match[0]].append(path)
    return dict(found)


def pids_of(paths: list[str]) -> list[int]:
    """The processes of cgroups and of those below them. Blocking."""
    pids: set[int] = set()
    for path in {below for top in paths for below, _, _ in os.walk(top)}:  # crun has them below a scope
        try:
            pids |= {int(line) for line in Path(path, "cgroup.procs").read_text().split()}
        except OSError:
            continue  # gone meanwhile
    return sorted(pids)
