"""What the use cases of runtimed share: records, ports, directories."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio.to_thread
from anyio.abc import TaskGroup

from common.errors import InvalidArgumentError, NotFoundError
from common.operations import Operations
from common.records import RecordStore
from common.sys.hostroot import HostRoot
from runtimed import selection
from runtimed.evidence import Evidence
from runtimed.feed import Feed
from runtimed.network.cni import Cni
from runtimed.oci import cgroups
from runtimed.oci.features import HandlerFeatures
from runtimed.ops import Op
from runtimed.ports import Shims, Snapshots
from runtimed.record import ContainerRecord, SandboxRecord
from runtimed.settings import Handler, Settings
from runtimed.transitions import Transitions
from runtimed.use.hostpaths import HostPaths


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Made once, in main."""

    settings: Settings
    sandboxes: Transitions[SandboxRecord]
    containers: Transitions[ContainerRecord]
    snapshots: Snapshots
    shims: Shims
    cni: Cni
    feed: Feed
    operations: Operations
    group: TaskGroup
    run_dir: Path
    data_dir: Path
    boot_id: str
    evidence: Evidence
    """Of this machine's present boot."""
    host_caps: frozenset[str]
    cgroup_version: int
    features: HandlerFeatures
    hostpaths: HostPaths
    host: HostRoot

    def sandbox_dir(self, sandbox_id: str) -> Path:
        """Its pinned namespaces, /dev/shm, resolv.conf and hostname."""
        return self.run_dir / "sandboxes" / sandbox_id

    def bundle_dir(self, container_id: str) -> Path:
        return self.run_dir / "bundles" / container_id

    def record_dir(self, container_id: str) -> Path:
        """Where the record's copy, the exit record, /etc/hosts and the image volumes are."""
        return self.data_dir / "containers" / container_id

    async def here(self, path: Path) -> Path:
        """Where a host path of a request is in our mount namespace.

        Raises:
            InvalidArgumentError: its symbolic links lead nowhere.
        """
        try:
            found = await anyio.to_thread.run_sync(self.host.here, str(path), abandon_on_cancel=True)
        except OSError as exc:
            raise InvalidArgumentError(f"{path}: {exc.strerror}") from exc
        return Path(found)

    def handler(self, name: str) -> tuple[str, Handler]:
        """A runtime handler by name; the default for an empty one.

        Raises:
            NotFoundError: there is no such handler.
        """
        wanted = name or self.settings.default_handler
        found = self.settings.handlers.get(wanted)
        if found is None:
            known = ", ".join(sorted(self.settings.handlers))
            raise NotFoundError(f"runtime_handler {wanted!r}: not configured; there are {known}")
        return wanted, found

    def containers_of(self, sandbox_id: str) -> list[ContainerRecord]:
        """All of a sandbox, also those being made."""
        return [record for record in self.containers.store.all() if record.sandbox_id == sandbox_id]

    def is_of_earlier_boot(self, sandbox_id: str) -> bool:
        """Whether a sandbox was ready in another boot of the machine than this one."""
        sandbox = self.sandboxes.store.find(sandbox_id)
        return sandbox is not None and sandbox.boot_id not in ("", self.boot_id)  # an older version told none

    def for_cri(self, store: RecordStore[selection.T]) -> list[selection.T]:
        """What CRI's lists show: without the command line's own, which a kubelet would take for orphans and end."""
        shown = selection.listed(store)
        return shown if self.settings.show_command_pods else selection.of_cri(shown)

    def rouse_cgroups(self) -> None:
        """In the background, have the kernel ready for the container that is about to start."""
        key = Op.ROUSE.of("cgroups")
        if not self.operations.running(key):
            work = partial(anyio.to_thread.run_sync, cgroups.rouse)
            self.group.start_soon(self.operations.join, key, work)
