"""A pod whose handler keeps images as EROFS, beside one that does not, on one node."""

import json
from pathlib import Path

import pytest

from common.api.cri.v1 import api_pb2 as cri_pb
from devtools.cri import connect
from devtools.registry import Registry, busybox_layer, directory, file, layer
from tests.support.node import running_node

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.root]
HANDLERS = {"crun": {"binary": "crun"}, "images": {"binary": "crun", "snapshotter": "erofs"}}


async def test_a_handler_chooses_the_snapshotter(shop: Registry, tmp_path: Path) -> None:
    below = layer([directory("etc"), file("etc/kept", b"kept\n"), file("etc/gone", b"x")])
    image = shop.push("demo/erofs", [busybox_layer(), below, layer([file("etc/.wh.gone", b"")])], {})
    settings = {"SLIPWAY_RUNTIMED_HANDLERS": json.dumps(HANDLERS)}
    with running_node(tmp_path, settings=settings) as node:
        async with connect(node.socket, node.logs) as cri:
            await cri.pull(image)
            for handler, kinds in (("images", {"overlay", "erofs"}), ("crun", {"overlay"})):
                sandbox = cri.sandbox_config(f"on-{handler}", host_network=True)
                config = cri.container_config("c", image, ["sleep", "1000"])
                container_id = await cri.create(await cri.run_sandbox(sandbox, handler), config, sandbox)
                await cri.start(container_id)
                script = "cat /etc/kept; ls /etc/gone; echo new > /etc/kept; cat /etc/kept"
                answer = await cri.exec(container_id, ["sh", "-c", script])
                assert answer.stdout == b"kept\nnew\n"
                assert mounted(node.run_dir, container_id) == kinds
                await cri.remove_all()
                assert mounted(node.run_dir, container_id) == set()
            assert node.leftovers()["mounts"] == []


def mounted(run_dir: Path, key: str) -> set[str]:
    """Filesystem types of a snapshot and of layers' images."""
    places = (f"{run_dir}/snapshotd/mounts/{key}", f"{run_dir}/snapshotd/layers/")
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return {line.split(" - ")[1].split()[0] for line in lines if line.split()[4].startswith(places)}


async def test_layers_as_images_are_mapped_into_a_user_namespace(shop: Registry, tmp_path: Path) -> None:
    owned, _ = file("owned", b"theirs\n")
    owned.uid, owned.gid = 1000, 2000
    image = shop.push("demo/erofs-userns", [busybox_layer(), layer([(owned, b"theirs\n")])], {})
    settings = {"SLIPWAY_RUNTIMED_HANDLERS": json.dumps(HANDLERS)}
    with running_node(tmp_path, settings=settings) as node:
        async with connect(node.socket, node.logs) as cri:
            await cri.pull(image)
            ids = cri_pb.IDMapping(container_id=0, host_id=100_000, length=65_536)
            for handler in ("images", "crun"):
                sandbox = cri.sandbox_config(f"mapped-{handler}")
                namespaces = sandbox.linux.security_context.namespace_options
                namespaces.userns_options.CopyFrom(
                    cri_pb.UserNamespace(mode=cri_pb.POD, uids=[ids], gids=[ids])
                )
                config = cri.container_config("c", image, ["sleep", "1000"])
                config.linux.security_context.namespace_options.CopyFrom(namespaces)
                container_id = await cri.create(await cri.run_sandbox(sandbox, handler), config, sandbox)
                await cri.start(container_id)
                script = "stat -c '%u:%g' / /bin/sh /owned; chown 5:6 /owned; echo mine > /new; cat /owned; stat -c '%u:%g' /owned"
                answer = await cri.exec(container_id, ["sh", "-c", script])
                told = (answer.stdout + answer.stderr).decode().split()
                assert told == ["0:0", "0:0", "1000:2000", "theirs", "5:6"], handler
                assert ("erofs" in mounted(node.run_dir, container_id)) == (handler == "images")
                upper = node.data_dir / "snapshotd" / "snapshots" / container_id / "upper"
                found = {name: (upper / name).stat() for name in ("new", "owned")}
                assert (found["new"].st_uid, found["new"].st_gid) == (100_000, 100_000)
                assert (found["owned"].st_uid, found["owned"].st_gid) == (100_005, 100_006)
                changes = node.slipway("diff", container_id)
                assert changes.stdout.split() == ["A", "/new", "C", "/owned"], changes.stderr
                await cri.remove_all()
            assert node.leftovers()["mounts"] == []
