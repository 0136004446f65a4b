"""What older revisions have recorded is read as they meant it."""

from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from common.api.cri.v1 import api_pb2 as cri_pb
from common.clients.shimd import ShimdClient
from imaged.record import ImageRecord
from runtimed.adapters.shims import ProcessShims
from runtimed.record import ContainerRecord, ContainerState, Origin, SandboxRecord, SandboxState
from snapshotd.records import LayerRecord, SnapshotRecord
from tests.older import COMMANDS, LABELS

KINDS = {
    "container-ended": ContainerRecord,
    "container-running": ContainerRecord,
    "sandbox-ended": SandboxRecord,
    "sandbox-running": SandboxRecord,
    "snapshot-ended": SnapshotRecord,
    "snapshot-running": SnapshotRecord,
    "layer": LayerRecord,
    "image": ImageRecord,
}
REVISIONS = sorted(path for path in Path(__file__).parent.iterdir() if list(path.glob("*.msgpack")))


@pytest.fixture(params=REVISIONS, ids=lambda path: path.name)
def folder(request: pytest.FixtureRequest) -> Path:
    found: Path = request.param
    return found


@pytest.fixture
def records(folder: Path) -> dict[str, Any]:
    """As the store of each service reads them."""
    return {
        name: msgspec.msgpack.decode((folder / f"{name}.msgpack").read_bytes(), type=kind)
        for name, kind in KINDS.items()
    }


@pytest.mark.parametrize("name", COMMANDS)
def test_an_older_container_and_its_sandbox_are_read(records: dict[str, Any], name: str) -> None:
    sandbox, container = records[f"sandbox-{name}"], records[f"container-{name}"]
    assert (sandbox.state, sandbox.name, sandbox.origin) == (SandboxState.READY, name, Origin.CRI)
    assert cri_pb.PodSandboxConfig.FromString(sandbox.config).metadata.name == name
    assert sandbox.ips[0].startswith("10.249.9.")
    assert 0 < sandbox.created_at_ns <= sandbox.ready_at_ns <= container.created_at_ns
    assert set(sandbox.namespaces) == {"network", "ipc", "uts"}
    assert (container.sandbox_id, container.name, container.labels) == (sandbox.id, "c", LABELS)
    assert container.pid > 0
    config = cri_pb.ContainerConfig.FromString(container.config)
    assert list(config.command) == ["sh", "-c", COMMANDS[name]]
    assert container.created_at_ns < container.started_at_ns
    assert container.log_path.endswith(f"/{name}/c.log")
    assert (container.image_id, container.stop_signal) == (records["image"].id, 15)


def test_an_older_end_is_read(records: dict[str, Any], folder: Path) -> None:
    ended, running = records["container-ended"], records["container-running"]
    assert (ended.state, ended.exit_code, ended.signal, ended.reason) == (
        ContainerState.EXITED,
        7,
        0,
        "Error",
    )
    assert (running.state, running.finished_at_ns) == (ContainerState.RUNNING, 0)
    found = ProcessShims(cast(ShimdClient, None)).read_exit(str(folder))
    assert found is not None
    assert (found.exit_code, found.signal, found.oom_killed, found.dropped_bytes) == (7, 0, False, 0)
    assert (found.started_at_ns, found.finished_at_ns) == (ended.started_at_ns, ended.finished_at_ns)
    assert found.pid == ended.pid
    assert found.log_bytes > 0


def test_an_older_image_and_what_stands_on_it_are_read(records: dict[str, Any]) -> None:
    image, layer = records["image"], records["layer"]
    assert [tag.partition("/")[2] for tag in image.repo_tags] == ["demo/busybox:latest"]
    assert image.diff_ids == (layer.diff_id,) == (f"sha256:{layer.id}",)
    assert len(image.layers) == 1
    assert image.size_bytes > image.config_size_bytes > 0
    assert image.manifest_digest in image.documents
    assert 0 < image.last_used_ns <= records["sandbox-ended"].created_at_ns
    assert (layer.tree, layer.image, layer.lazy, layer.orphaned) == (True, False, None, False)
    assert layer.size_bytes > 0
    for name in COMMANDS:
        snapshot = records[f"snapshot-{name}"]
        assert snapshot.id == records[f"container-{name}"].id
        assert (snapshot.layers, snapshot.diff_ids) == ([layer.id], [layer.diff_id])
        assert (snapshot.snapshotter, snapshot.readonly) == ("overlayfs", False)
        assert snapshot.path == records[f"container-{name}"].rootfs
        assert (snapshot.ids, snapshot.project, snapshot.max_bytes) == (None, 0, 0)
