"""What shimd is told of a container."""

from common.api.cri.v1 import api_pb2 as cri
from runtimed.oci import cgroups
from runtimed.ports import Runtime, ShimPlan
from runtimed.record import ContainerRecord
from runtimed.use.parts import Parts


def shim_plan(parts: Parts, record: ContainerRecord, handler_name: str) -> ShimPlan:
    """How a container's supervisor is made."""
    name, handler = parts.handler(handler_name)
    config = cri.ContainerConfig.FromString(record.config)
    dirs = record.cgroup.dirs if record.cgroup else {}
    args = [*handler.args]
    driver = record.cgroup.driver if record.cgroup else parts.settings.cgroup_driver
    if driver == cgroups.SYSTEMD and "--systemd-cgroup" not in args:
        args.append("--systemd-cgroup")
    return ShimPlan(
        container_id=record.id,
        bundle_path=record.bundle_path,
        runtime=Runtime(
            binary=handler.binary,
            args=args,
            root=handler.root or str(parts.run_dir / "oci" / name),
            sandboxed=handler.sandboxed,
        ),
        log_path=record.log_path,
        tty=config.tty,
        stdin=config.stdin,
        stdin_once=config.stdin_once,
        memory_cgroup_path=dirs.get("memory") or dirs.get("") or "",
        pids_cgroup_path=dirs.get("pids") or dirs.get("") or "",
        max_line_bytes=parts.settings.max_line_bytes,
        record_dir=str(parts.record_dir(record.id)),
    )
