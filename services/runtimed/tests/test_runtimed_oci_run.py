"""Built configurations run under crun and runc; statistics are read from real cgroups."""

import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.api.cri.v1 import api_pb2 as cri
from common.sys.hostroot import HostRoot
from runtimed.oci import capabilities, cgroups, spec
from runtimed.readings import usage

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

APPLETS = (
    "sh",
    "cat",
    "id",
    "unshare",
    "mount",
    "grep",
    "pwd",
    "ls",
    "hostname",
    "touch",
    "true",
    "head",
    "env",
)
# The hybrid layout's second hierarchy is hidden from the OCI runtime, as crun 1.8 refuses to work with both.
RUN = "umount /sys/fs/cgroup/unified 2>/dev/null; cd $0 && exec timeout 30 $1 --root $0/run run $2"
EATER = "input(); held = b'x' * (20 << 20); print('ate', flush=True); input()"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    binaries = tmp_path / "rootfs/bin"
    binaries.mkdir(parents=True)
    shutil.copy("/bin/busybox", binaries / "busybox")
    for name in APPLETS:
        (binaries / name).symlink_to("busybox")
    (tmp_path / "rootfs/etc").mkdir()
    (tmp_path / "rootfs/etc/passwd").write_text("root:x:0:0::/:/bin/sh\nweb:x:33:44::/:\n")
    (tmp_path / "rootfs/etc/group").write_text("www:x:55:web\n")
    return tmp_path


@pytest.fixture
def parent() -> Iterator[str]:
    name = f"/slipway-test-{uuid.uuid4().hex[:8]}"
    yield name
    root = Path(cgroups.ROOT)
    for directory in (root / name[1:], *(hierarchy / name[1:] for hierarchy in root.iterdir())):
        if directory.is_dir():
            directory.rmdir()


def configure(bundle: Path, parent: str, script: str, **fields: Any) -> dict[str, Any]:
    base: dict[str, Any] = {"metadata": {"name": "c"}, "image": {"image": "busybox"}}
    config = cri.ContainerConfig(command=["/bin/sh", "-c", script], **base, **fields)
    privileged = config.linux.security_context.privileged
    security: dict[str, Any] = {"security_context": {"privileged": privileged}}
    pod_fields: dict[str, Any] = {"metadata": {"name": "p", "uid": "u", "namespace": "n"}, "linux": security}
    pod = cri.PodSandboxConfig(**pod_fields)
    spec.validate_sandbox(pod)
    spec.validate_container(config, pod)
    for name in ("resolv.conf", "hostname"):
        (bundle / name).write_text(f"{name} of the sandbox\n")
    found = spec.build(
        spec.SpecInput(
            container_id="c1",
            sandbox_id="s1",
            container=config,
            sandbox=pod,
            image_config={"config": {"WorkingDir": "/made/here"}},
            rootfs=str(bundle / "rootfs"),
            namespaces={"network": "", "ipc": "", "uts": "", "pid": ""},
            cgroup=cgroups.plan("cgroupfs", parent, "c1", cgroups.detect()),
            resolv_conf=str(bundle / "resolv.conf"),
            hostname="pod-1",
            hostname_file=str(bundle / "hostname"),
            shm_path="",
            seccomp_profile_root="",
            host_caps=capabilities.host_capabilities(),
            never_made=(),
            cdi_dirs=(),
            ulimits={"nofile": (77, 99)},
            handler_annotations={},
            host=HostRoot(),
        )
    )
    (bundle / "config.json").write_text(json.dumps(found))
    return found


def run(bundle: Path, runtime: str) -> str:
    command = ["unshare", "-m", "sh", "-c", RUN, str(bundle), runtime, f"slw{uuid.uuid4().hex[:8]}"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.mark.parametrize("runtime", ["crun", "runc"])
def test_default_container_is_confined(bundle: Path, parent: str, runtime: str) -> None:
    script = """cat /proc/self/status; id; pwd; hostname; cat /etc/hostname
unshare -n true 2>&1; mount -t tmpfs x /tmp 2>&1; (echo x > /proc/sys/kernel/domainname) 2>&1; head -c 1 /proc/kcore; cat /dev/extra | head -c 3"""
    context = {
        "no_new_privs": True,
        "seccomp": {"profile_type": 0},
        "capabilities": {"drop_capabilities": ["MKNOD"]},
        "masked_paths": ["/proc/kcore"],
        "readonly_paths": ["/proc/sys"],
        "supplemental_groups": [77],
    }
    device = {"host_path": "/dev/zero", "container_path": "/dev/extra", "permissions": "rw"}
    configure(bundle, parent, script, linux={"security_context": context}, devices=[device])
    out = run(bundle, runtime)
    status = dict(
        line.split(":", 1) for line in out.splitlines() if line.startswith(("Cap", "NoNew", "Seccomp"))
    )
    wanted = capabilities.DEFAULT - {"CAP_MKNOD"}
    mask = sum(1 << capabilities.NAMES.index(name) for name in wanted & capabilities.host_capabilities())
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == mask
    assert int(status["CapInh"], 16) == int(status["CapAmb"], 16) == 0
    assert (status["NoNewPrivs"].strip(), status["Seccomp"].strip()) == ("1", "2")
    assert "uid=0(root) gid=0 groups=0,77" in out
    assert "/made/here\npod-1\nhostname of the sandbox\n" in out
    assert out.count("Operation not permitted") + out.count("permission denied") >= 2
    assert "Read-only file system" in out
    assert out.endswith("\0\0\0")


@pytest.mark.parametrize("runtime", ["crun", "runc"])
def test_user_mounts_and_readonly_root_are_as_asked(bundle: Path, parent: str, runtime: str) -> None:
    shared = bundle / "shared"
    script = "ulimit -Sn; ulimit -Hn; id; touch /x 2>&1; touch /data/y; touch /ro/z 2>&1; env; cat /proc/self/oom_score_adj"
    configure(
        bundle,
        parent,
        script,
        linux={
            "security_context": {
                "run_as_username": "root",
                "readonly_rootfs": True,
                "run_as_group": {"value": 55},
            },
            "resources": {"oom_score_adj": 321, "cpu_shares": 512, "memory_limit_in_bytes": 64 << 20},
        },
        mounts=[
            {"container_path": "/data", "host_path": str(shared)},
            {
                "container_path": "/ro",
                "host_path": str(shared),
                "readonly": True,
                "recursive_read_only": True,
            },
        ],
        envs=[{"key": "A", "value": b"line1\nline2"}],
    )
    for name in ("data", "ro", "made/here"):
        (bundle / "rootfs" / name).mkdir(parents=True)
    out = run(bundle, runtime)
    assert out.startswith("77\n99\nuid=0(root) gid=55(www)")
    assert "/x: Read-only file system" in out
    assert "/ro/z: Read-only file system" in out
    assert (shared / "y").exists()
    assert "A=line1\nline2\n" in out
    assert out.endswith("\n321\n")


@pytest.mark.parametrize("runtime", ["crun", "runc"])
def test_privileged_container_sees_the_machine(bundle: Path, parent: str, runtime: str) -> None:
    script = "cat /proc/self/status; mount -t tmpfs x /mnt && ls /dev; touch /proc/sys/kernel/domainname"
    configure(bundle, parent, script, linux={"security_context": {"privileged": True}})
    (bundle / "rootfs/mnt").mkdir()
    out = run(bundle, runtime)
    status = dict(line.split(":", 1) for line in out.splitlines() if line.startswith(("Cap", "Seccomp")))
    mask = sum(1 << capabilities.NAMES.index(name) for name in capabilities.host_capabilities())
    assert int(status["CapEff"], 16) == mask
    assert status["Seccomp"].strip() == "0"


def test_statistics_are_those_of_the_cgroup(parent: str) -> None:
    plan = cgroups.plan("cgroupfs", parent, "c1", cgroups.detect())
    assert usage.read_stats(plan) is None
    for directory in plan.dirs.values():
        Path(directory).mkdir(parents=True, exist_ok=True)
    if plan.version == 2:  # an OCI runtime turns these on
        for above in (Path(cgroups.ROOT), Path(plan.dirs[""]).parent):
            (above / "cgroup.subtree_control").write_text("+cpu +memory +pids")
    child = subprocess.Popen([sys.executable, "-c", EATER], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        for name, directory in plan.dirs.items():
            if name != "cpuset":  # has no CPUs until it is given some
                Path(directory, "cgroup.procs").write_text(str(child.pid))
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(b"\n")
        child.stdin.flush()
        child.stdout.readline()
        found = usage.read_stats(plan)
        assert found is not None
        assert found.cpu_usage_ns > 1_000_000
        assert 0 < found.working_set_bytes <= found.usage_bytes
        assert found.page_faults > 0
        assert found.process_count == 1
        assert found.rss_bytes > 16 << 20
        assert found.available_bytes is None
    finally:
        child.communicate(b"\n", timeout=10)
        for directory in plan.dirs.values():
            Path(directory).rmdir()
    assert usage.read_stats(plan) is None


def test_rousing_moves_nobody() -> None:
    before = Path("/proc/self/cgroup").read_text()
    cgroups.rouse()
    assert Path("/proc/self/cgroup").read_text() == before
