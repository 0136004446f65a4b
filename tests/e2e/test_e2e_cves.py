"""What other runtimes got wrong and had no test of ours yet; tests/test_cves.py says which test is for which."""

import json
from pathlib import Path

import grpc
import pytest

from bench.pods import pss_kib
from common.api.cri.v1 import api_pb2 as cri_pb
from devtools import registry
from devtools.cri import Cri
from devtools.registry import Registry
from tests.e2e.test_e2e_pods import exited, pod
from tests.support.node import TestNode

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(120)]
MIB = 1 << 20
ANSWER_BYTES = 16 * MIB


async def test_endless_output_of_a_command_takes_bounded_memory(
    cri: Cri, node: TestNode, busybox: str
) -> None:
    """CVE-2022-31030, CVE-2022-1708."""
    _, container_id = await pod(cri, "endless", busybox, ["sleep", "1000"])
    await cri.exec(container_id, ["true"])
    before = sum(pss_kib(node.pid(name)) for name in ("crid", "runtimed"))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await cri.exec(container_id, ["yes"], timeout_s=3)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    after = sum(pss_kib(node.pid(name)) for name in ("crid", "runtimed"))
    assert (after - before) * 1024 < 8 * ANSWER_BYTES
    assert b"yes" not in (await cri.exec(container_id, ["ps"])).stdout


async def test_labels_of_an_image_are_no_labels_of_its_container(
    cri: Cri, node: TestNode, shop: Registry
) -> None:
    """CVE-2026-53488."""
    labels = {
        "restart.loguri": "binary:///bin/sh",
        "io.slipway.cli": "run",
        "io.kubernetes.pod.name": "other",
    }
    image = shop.push(
        "demo/labelled", [registry.busybox_layer()], {"Labels": labels, "Cmd": ["sleep", "1000"]}
    )
    _, container_id = await pod(cri, "labelled", image, [])
    status = await cri.status(container_id)
    assert (dict(status.labels), dict(status.annotations)) == ({}, {})
    spec = (node.run_dir / "runtimed" / "bundles" / container_id / "config.json").read_text()
    assert not [label for label in labels if label in json.loads(spec).get("annotations", {})]
    assert "binary:///bin/sh" not in spec


@pytest.mark.parametrize("where", ["image", "request"])
async def test_a_home_of_two_lines_adds_no_user(cri: Cri, shop: Registry, busybox: str, where: str) -> None:
    """CVE-2022-4318, CVE-2026-15809."""
    home = "/root\nevil::0:0::/:/bin/sh"
    image = shop.push("demo/twolines", [registry.busybox_layer()], {"Env": ["PATH=/bin", f"HOME={home}"]})
    env = [cri_pb.KeyValue(key="HOME", value=home.encode())] if where == "request" else []
    name = image if where == "image" else busybox
    _, container_id = await pod(cri, f"home-{where}", name, ["cat", "/etc/passwd"], envs=env)
    status = await exited(cri, container_id)
    assert status.exit_code == 0
    assert "evil" not in Path(status.log_path).read_text()


ANNOTATIONS = {
    "run.oci.systemd.subgroup": "/",
    "run.oci.keep_original_groups": "1",
    "org.systemd.property.ExecStartPost": "['/bin/sh']",
    "io.kubernetes.cri-o.Devices": "/dev/sda",
    "cpu-quota.crio.io": "disable",
    "resources.alpha.kubernetes.io/memory": "1G",
}


async def test_no_annotation_changes_limits_devices_or_groups(cri: Cri, node: TestNode, busybox: str) -> None:
    """CVE-2023-6476, CVE-2024-3154: the same container with and without them is the same to the OCI runtime."""
    specs = []
    for name, annotations in (("plain", {}), ("annotated", ANNOTATIONS)):
        await cri.pull(busybox)
        sandbox = cri.sandbox_config(f"limits-{name}", host_network=True, annotations=annotations)
        config = cri.container_config("c", busybox, ["sleep", "1000"], annotations=annotations)
        config.linux.resources.memory_limit_in_bytes = 64 * MIB
        container_id = await cri.create(await cri.run_sandbox(sandbox), config, sandbox)
        spec = json.loads((node.run_dir / "runtimed" / "bundles" / container_id / "config.json").read_text())
        specs.append((spec["linux"]["resources"], spec["process"]["user"], spec["linux"].get("devices")))
        steering = [key for key in spec["annotations"] if key.startswith(("run.oci.", "org.systemd."))]
        assert steering == []
    assert specs[0] == specs[1]


@pytest.mark.parametrize("path", ["../../etc/cron.d/x", "a/../../x", "/etc/cron.d/x"])
async def test_a_log_path_stays_below_its_directory(
    cri: Cri, node: TestNode, busybox: str, path: str
) -> None:
    """CVE-2025-0750."""
    await cri.pull(busybox)
    sandbox = cri.sandbox_config("log-path", host_network=True)
    config = cri.container_config("c", busybox, ["echo", "x"])
    config.log_path = path
    with pytest.raises(grpc.aio.AioRpcError, match="log_path") as caught:
        await cri.create(await cri.run_sandbox(sandbox), config, sandbox)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_link_in_the_place_of_a_log_is_not_followed(cri: Cri, node: TestNode, busybox: str) -> None:
    """CVE-2024-5154, CVE-2025-0750."""
    target = node.data_dir / "target-of-a-link"
    directory = node.logs / "linked"
    directory.mkdir(parents=True)
    (directory / "c.log").symlink_to(target)
    await cri.pull(busybox)
    sandbox = cri.sandbox_config("linked", host_network=True)
    container_id = await cri.create(
        await cri.run_sandbox(sandbox), cri.container_config("c", busybox, ["echo", "x"]), sandbox
    )
    try:
        await cri.start(container_id)
    except grpc.aio.AioRpcError as exc:
        assert "c.log" in (exc.details() or "")
    assert not target.exists()
