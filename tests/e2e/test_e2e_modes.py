"""Every file, directory and socket that a node makes, and its mode: a table, in which a new one needs a row."""

import os
import re
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.api.cri.v1 import api_pb2 as cri_pb
from devtools.cri import Cri
from tests.support.node import TestNode, running_node

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.root]
ID = "[0-9a-f]{64}"
TABLE = (
    # below the run directory
    (r"R", "drwx--x--x"),
    (r"R/crid\.sock", "srw-rw----"),
    (r"R/(imaged|snapshotd|runtimed|shimd|opsd|redis)\.sock", "srw-------"),
    (r"R/(imaged|runtimed|shimd|opsd|metrics|log|settings)", "drwx------"),
    (r"R/settings/\w+\.toml", "-rw-------"),
    (r"R/node\.(json|lock)", "-rw-------"),
    (r"R/metrics/\w+\.sock", "srw-------"),
    (r"R/log/\w+\.log(\.1)?", "-rw-r--r--"),
    (r"R/opsd/http\.sock", "srw-------"),
    (r"R/opsd/port", "-rw-r--r--"),
    (r"R/imaged/.*", "[-ds]rw.------"),
    (r"R/runtimed/(bundles|sandboxes)", "drwx..x..x|drwxr-xr-x"),
    (rf"R/runtimed/bundles/{ID}", "drwx------"),
    (rf"R/runtimed/bundles/{ID}/config\.json", "-rw-r--r--"),
    (r"R/runtimed/oci(/.*)?", "[-ds]rw.------"),
    (rf"R/runtimed/sandboxes/{ID}", "drwxr-xr-x"),
    (rf"R/runtimed/sandboxes/{ID}/(hostname|resolv\.conf)", "-rw-r--r--"),
    (rf"R/runtimed/sandboxes/{ID}/ns", "drwx------"),
    (rf"R/runtimed/sandboxes/{ID}/(ns/\w+|pid)", "-r--r--r--"),
    (rf"R/runtimed/sandboxes/{ID}/shm", "drwxrwxrwt"),
    (r"R/shimd/(shims|pauses|rehearsal-[0-9]+)", "drwx------"),
    (r"R/shimd/zygote", "-rw-------"),
    (r"R/shimd/rehearsal-[0-9]+/.*", "[-s]rw.......|-rw-r--r--"),
    (rf"R/shimd/(shims|pauses)/{ID}", "drwx------"),
    (rf"R/shimd/shims/{ID}/(pid|shim\.log)", "-rw-------"),
    (rf"R/shimd/shims/{ID}/init\.pid", "-rw.------"),
    (rf"R/shimd/shims/{ID}/spawn\.msgpack", "-rw-r--r--"),
    (rf"R/shimd/shims/{ID}/[\w.]+", "[-sp]rw.------"),
    (rf"R/shimd/pauses/{ID}/pid", "-rw-------"),
    (r"R/snapshotd(/mounts)?", "drwx--x--x"),
    (r"R/snapshotd/(layers|lazy)", "drwx------"),
    # below the data directory
    (r"D/(imaged|snapshotd|runtimed|shimd|opsd|redis|nats)", "drwx------"),
    (r"D/(node-name|nats-port|nats-token|nats\.conf|opsd/token)", "-rw-------"),
    (r"D/imaged/(blobs|images)", "drwxr-xr-x"),
    (r"D/imaged/(ingest|lazy|peers|blobs/sha256|images/sha256:[0-9a-f]{64})", "drwx------"),
    (rf"D/imaged/(blobs/sha256/{ID}|images/sha256:{ID}/record\.msgpack)", "-rw-------"),
    (r"D/nats/.*", "drwx------|-rw-r-----|-rw-------"),
    (r"D/redis/appendonlydir", "drwxr-xr-x"),
    (r"D/redis/appendonlydir/.*", "-rw-r--r--"),
    (r"D/runtimed/cni", "drwx------"),
    (r"D/runtimed/(containers|sandboxes)", "drwxr-xr-x"),
    (rf"D/runtimed/(containers|sandboxes)/{ID}", "drwx------"),
    (rf"D/runtimed/containers/{ID}/hosts", "-rw-r--r--"),
    (rf"D/runtimed/(containers|sandboxes)/{ID}/(record|exit)\.msgpack(\.new)?", "-rw-------"),
    (rf"D/runtimed/cni/{ID}-eth0\.json", "-rw-------"),
    (r"D/snapshotd/(layers|snapshots|trash)", "drwx------"),
    (r"D/snapshotd/empty", "drwxr-xr-x"),
    (rf"D/snapshotd/(layers|snapshots)/{ID}", "drwx------"),
    (rf"D/snapshotd/layers/{ID}/record\.msgpack", "-rw-------"),
    (rf"D/snapshotd/snapshots/{ID}/record\.msgpack", "-rw-r--r--"),
    (rf"D/snapshotd/snapshots/{ID}/work", "drwx------"),
)
"""Path, R for the run directory and D for the data directory, and what `ls` shows of it; the first row counts."""
IMAGES = re.compile(
    rf"R/snapshotd/(mounts|layers)/.+|D/snapshotd/layers/{ID}/fs|D/snapshotd/snapshots/{ID}/(upper|work/work)"
)
"""Root filesystems: their modes are the image's."""
OTHERS = ("D/cni", "D/pod-logs", "D/leases", "D/certs.d")
"""Of the test, or the kubelet's."""


def found(run_dir: Path, data_dir: Path) -> Iterator[tuple[str, str]]:
    todo = [(run_dir, "R"), *((path, f"D/{path.name}") for path in data_dir.iterdir())]
    while todo:
        path, name = todo.pop()
        if IMAGES.fullmatch(name) or name in OTHERS:
            continue
        try:
            mode = path.lstat().st_mode
            if stat.S_ISDIR(mode):
                todo += [(child, f"{name}/{child.name}") for child in path.iterdir()]
        except FileNotFoundError:
            continue  # gone meanwhile
        yield name, stat.filemode(mode)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestNode]:
    """One of its own: what other tests had of a node is not what a node makes."""
    with running_node(Path(tmp_path_factory.mktemp("modes"))) as running:
        yield running


@pytest.fixture
async def life(cri: Cri, node: TestNode, busybox: str) -> str:
    """One of everything: a container that runs, one that has ended, a pod with a network and a pause."""
    await cri.pull(busybox)
    config = cri.sandbox_config("modes")
    config.linux.security_context.namespace_options.pid = cri_pb.POD
    sandbox_id = await cri.run_sandbox(config)
    for name, command in (("runs", ["sleep", "1000"]), ("ended", ["true"])):
        container = cri.container_config(name, busybox, command)
        container_id = await cri.create(sandbox_id, container, config)
        await cri.start(container_id)
    return sandbox_id


async def test_every_file_and_socket_has_the_mode_of_the_table(node: TestNode, life: str) -> None:
    """CVE-2024-25621."""
    seen = dict(found(node.run_dir, node.data_dir))
    assert len(seen) > 80
    wrong = []
    for name, mode in sorted(seen.items()):
        row = next((wanted for pattern, wanted in TABLE if re.fullmatch(pattern, name)), None)
        if row is None:
            wrong.append(f"{name}: {mode}: has no row")
        elif not re.fullmatch(row, mode):
            wrong.append(f"{name}: {mode}, not {row}")
    assert not wrong, "\n".join(wrong)


TRY = """
import os, socket, sys
reached = []
for top, directories, files in os.walk(sys.argv[1]):
    for name in files:
        path = os.path.join(top, name)
        if os.access(path, os.R_OK) or os.access(path, os.W_OK):
            reached.append(path)
for path in sys.argv[2:]:
    try:
        socket.socket(socket.AF_UNIX).connect(path)
        reached.append(path)
    except OSError:
        pass
print("\\n".join(reached))
"""


async def test_another_user_reaches_nothing_of_it(node: TestNode, life: str) -> None:
    # walk goes on where a directory goes meanwhile
    found = os.walk(node.run_dir)
    sockets = [f"{here}/{name}" for here, _, names in found for name in names if name.endswith(".sock")]
    assert len(sockets) > 10
    done = subprocess.run(
        ["/usr/bin/python3", "-Ic", TRY, str(node.run_dir), *sockets],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
        user=65534,
        group=65534,
        extra_groups=[],
        cwd="/",
    )
    assert done.stdout.strip() == ""
    with socket.socket(socket.AF_UNIX) as own:
        own.connect(node.socket)
    assert os.geteuid() == 0
