"""Restores: what is made of a checkpoint and what is left of one that is wrong, with a real runc that finds no CRIU.

Restores whose processes go on are in tests/e2e.
"""

import io
import json
import os
import shutil
import signal
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from common.api.cri.v1 import api_pb2 as cri
from common.api.runtime.v1 import runtime_pb2 as pb
from common.errors import (
    AlreadyExistsError,
    DeadlineExceededError,
    FailedPreconditionError,
    InvalidArgumentError,
    UnavailableError,
    UnimplementedError,
    UnknownError,
)
from runtimed.checkpoint import archive
from services.runtimed.tests.daemons import Daemons, Pods, executable, handler, needs, running_daemons
from tests.support.eventually import until

pytestmark = needs("runc")
NAMES = ("c", "d")
TOLD = """#!/bin/sh
echo "$@" >> {base}/calls
PATH=/nonexistent exec {runc} "$@"
"""
PLUGIN = """#!/bin/sh
cat >/dev/null
echo $CNI_COMMAND >> {base}/network
while [ -e {base}/hold ]; do sleep 0.05; done
[ $CNI_COMMAND = ADD ] && echo '{{"cniVersion":"0.4.0","ips":[{{"version":"4","address":"10.9.8.7/24"}}]}}'
exit 0
"""


@pytest.fixture(scope="module")
def daemons(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemons]:
    base = tmp_path_factory.mktemp("told")
    program = executable(base / "told-runc", TOLD.format(base=base, runc=shutil.which("runc")))
    with running_daemons(**handler("runc", program), criu_binary="/bin/true", reconcile_every_s="1") as found:
        executable(found.programs / "obedient", PLUGIN.format(base=base))
        conf = {"cniVersion": "0.4.0", "name": "test", "plugins": [{"type": "obedient"}]}
        (found.base / "cni/10-test.conflist").write_text(json.dumps(conf))
        yield found


def diff_of(name: str) -> bytes:
    """What a container wrote: one file."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        tar.addfile(tarfile.TarInfo(name))
    return out.getvalue()


def checkpoint(pods: Pods, directory: Path, wrote: dict[str, bytes]) -> dict[str, bytes]:
    """A pod's checkpoint whose images are none, by the containers' diffs; returns its files."""
    held = [archive.Held(name, f"{number}.tar", pods.diff_id) for number, name in enumerate(NAMES)]
    for one in held:
        texts = {"checkpoint/inventory.img": b"none", archive.DIFF: wrote[one.name]}
        archive.write(directory / one.archive, texts, {}, directory / "new")
    archive.write_manifest(directory, archive.Manifest("p", "ns", "u", held))
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def request(pods: Pods, directory: Path, config: cri.PodSandboxConfig) -> pb.RestorePodRequest:
    containers = [pods.container_config("true", name=name) for name in NAMES]
    return pb.RestorePodRequest(
        request=cri.RestorePodRequest(
            checkpoint_path=str(directory), config=config, container_configs=containers
        ),
        containers=[
            pb.CreateContainerRequest(
                request=cri.CreateContainerRequest(config=one, sandbox_config=config), image=pods.image()
            )
            for one in containers
        ],
    )


async def nothing_is_left(pods: Pods) -> None:
    assert not await pods.client.list_sandboxes()
    assert not await pods.client.list_containers()
    for place in ("runtimed/containers", "runtimed/sandboxes", "snapshotd/snapshots"):
        assert not list((pods.daemons.base / "data" / place).iterdir()), place


async def test_a_restored_pod_is_created_and_its_start_is_a_restore_also_for_a_later_life(
    pods: Pods, tmp_path: Path
) -> None:
    before = checkpoint(pods, tmp_path, {name: diff_of(f"wrote-{name}") for name in NAMES})
    wanted = request(pods, tmp_path, pods.sandbox_config())
    made = await pods.client.stub.RestorePod(wanted)
    assert [one.name for one in made.restored_containers] == [*NAMES]
    for one in made.restored_containers:
        answer = await pods.client.container_status(one.container_id, verbose=True)
        assert answer.status.state == cri.CONTAINER_CREATED
        assert (Path(json.loads(answer.info["info"])["rootfs"]) / f"wrote-{one.name}").is_file()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    with pytest.raises(AlreadyExistsError, match="remove it first"):
        await pods.client.stub.RestorePod(wanted)
    pods.daemons.kill("runtimed")
    pods.daemons.start("runtimed")
    container_id = made.restored_containers[0].container_id
    with pytest.raises(UnknownError, match="criu"):
        await pods.client.start_container(container_id)
    status = await pods.status(container_id)
    assert (status.state, status.exit_code, status.reason) == (cri.CONTAINER_EXITED, 128, "StartError")
    images = pods.daemons.base / "data/runtimed/containers" / container_id / "dump/checkpoint"
    assert f"restore --image-path {images} " in (pods.daemons.program.parent / "calls").read_text()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    await pods.client.remove_sandbox(made.pod_sandbox_id)
    await nothing_is_left(pods)


@pytest.mark.parametrize("wrong", [diff_of("../../escaped"), b"\xff" * 1024], ids=["upwards", "garbage"])
async def test_one_wrong_container_leaves_nothing(pods: Pods, tmp_path: Path, wrong: bytes) -> None:
    before = checkpoint(pods, tmp_path, {"c": diff_of("wrote"), "d": wrong})
    with pytest.raises(Exception, match="diff sha256:"):
        await pods.client.stub.RestorePod(request(pods, tmp_path, pods.sandbox_config()))
    await nothing_is_left(pods)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("retried", [True, False])
async def test_a_restore_that_was_cut_off_is_undone_by_the_next_start_or_the_retry(
    pods: Pods, tmp_path: Path, end: signal.Signals, *, retried: bool
) -> None:
    checkpoint(pods, tmp_path, {name: diff_of("wrote") for name in NAMES})
    wanted = request(pods, tmp_path, pods.sandbox_config())
    with _stopped_snapshotd(pods):
        async with anyio.create_task_group() as group:
            group.start_soon(_cut_off, pods, wanted)
            half = await until(pods.client.list_sandboxes, "the sandbox")
            records = pods.daemons.base / "data/runtimed/containers"
            await until(lambda: len(list(records.glob("*/record.msgpack"))) >= len(NAMES), "every record")
            pods.daemons.processes["runtimed"].send_signal(end)
            await anyio.to_thread.run_sync(pods.daemons.processes["runtimed"].wait, 20)
        pods.daemons.start("runtimed")
        await until(lambda: _answers(pods), "runtimed to answer", but=UnavailableError)
        if retried:
            with pytest.raises(DeadlineExceededError):  # what was half made has to go, which needs snapshotd
                await pods.client.stub.RestorePod(wanted, timeout=1)
    if retried:
        made = await pods.client.stub.RestorePod(wanted)
        assert [one.id for one in await pods.client.list_sandboxes()] == [made.pod_sandbox_id]
        assert made.pod_sandbox_id != half[0].id
        assert len(await pods.client.list_containers()) == len(NAMES)
        await pods.client.remove_sandbox(made.pod_sandbox_id)
    await until(lambda: _has_no_pod(pods), "the end of what was half made")
    await nothing_is_left(pods)


async def test_a_restore_that_could_be_neither_finished_nor_undone_goes_once_redis_is_back(
    pods: Pods, tmp_path: Path
) -> None:
    checkpoint(pods, tmp_path, {name: diff_of("wrote") for name in NAMES})
    wanted = request(pods, tmp_path, pods.sandbox_config(network=cri.POD))
    base = pods.daemons.program.parent
    (base / "hold").touch()

    def records() -> list[Path]:
        return list((pods.daemons.base / "data/runtimed/sandboxes").iterdir())

    try:
        async with anyio.create_task_group() as group:
            group.start_soon(_cut_off, pods, wanted)
            await until((base / "network").exists, "the plugin to be asked")
            pods.daemons.redis.kill()
            (base / "hold").unlink()
        assert records()
    finally:
        pods.daemons.redis.start()
    await until(lambda: not records(), "the end of what was half made")
    assert set((base / "network").read_text().split()) == {"ADD", "DEL"}


@contextmanager
def _stopped_snapshotd(pods: Pods) -> Iterator[None]:
    process = pods.daemons.processes["snapshotd"]
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


async def _answers(pods: Pods) -> bool:
    await pods.client.list_sandboxes()
    return True


async def _has_no_pod(pods: Pods) -> bool:
    return not await pods.client.list_sandboxes()


async def _cut_off(pods: Pods, wanted: pb.RestorePodRequest) -> None:
    with pytest.raises(UnavailableError):
        await pods.client.stub.RestorePod(wanted)


async def test_a_dump_of_another_image_and_a_user_namespace_are_refused(pods: Pods, tmp_path: Path) -> None:
    checkpoint(pods, tmp_path, {name: diff_of("wrote") for name in NAMES})
    wanted = request(pods, tmp_path, pods.sandbox_config())
    wanted.containers[1].image.id = "sha256:other"
    with pytest.raises(InvalidArgumentError, match=r"'d' is sha256:other"):
        await pods.client.stub.RestorePod(wanted)
    config = pods.sandbox_config()
    mapping = cri.IDMapping(host_id=70_000, container_id=0, length=65_536)
    config.linux.security_context.namespace_options.userns_options.MergeFrom(
        cri.UserNamespace(mode=cri.POD, uids=[mapping], gids=[mapping])
    )
    with pytest.raises(UnimplementedError, match="userns_options"):
        await pods.client.stub.RestorePod(request(pods, tmp_path, config))
    await nothing_is_left(pods)


def test_a_diff_tells_what_overlayfs_has(tmp_path: Path) -> None:
    upper, out = tmp_path / "upper", tmp_path / "diff.tar"
    (upper / "fresh/below").mkdir(parents=True)
    os.setxattr(upper / "fresh", "trusted.overlay.opaque", b"y")
    (upper / "fresh/below/x").write_bytes(b"x")
    os.setxattr(upper / "fresh/below/x", "user.mark", b"\xff\x00")
    os.link(upper / "fresh/below/x", upper / "fresh/y")
    os.mknod(upper / "gone", 0o20000, 0)
    (upper / "out").symlink_to("fresh")
    upper.chmod(0o711)
    archive.write_diff(out, upper)
    with tarfile.open(out) as tar:
        found = {member.name: member for member in tar}
        assert " ".join(found) == ". fresh fresh/.wh..wh..opq fresh/below fresh/below/x fresh/y gone out"
    assert found["."].mode == 0o711
    assert (found["gone"].ischr(), found["out"].linkname) == (True, "fresh")
    assert found["fresh/y"].linkname == "fresh/below/x"
    marks = found["fresh/below/x"].pax_headers
    assert marks["SCHILY.xattr.user.mark"].encode(errors="surrogateescape") == b"\xff\x00"
    assert "trusted" not in str([member.pax_headers for member in found.values()])
    os.setxattr(upper / "fresh/below", "trusted.overlay.redirect", b"/elsewhere")
    with pytest.raises(FailedPreconditionError, match=r"below: has trusted\.overlay\.redirect"):
        archive.write_diff(tmp_path / "again.tar", upper)


def test_what_an_archive_holds_beside_dump_and_diff_is_not_unpacked(tmp_path: Path) -> None:
    texts = {"config.dump": b"{}", "checkpoint/a.img": b"image", archive.DIFF: b"abc", "container.log": b"no"}
    archive.write(tmp_path / "0.tar", texts, {}, tmp_path / "new")
    target = tmp_path / "target"
    target.mkdir()
    digest = archive.unpack(tmp_path / "0.tar", target)
    assert digest == "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    names = {str(path.relative_to(target)) for path in target.rglob("*")}
    assert names == {"checkpoint", "checkpoint/a.img", archive.DIFF}
    (tmp_path / "none").mkdir()
    archive.write(tmp_path / "1.tar", {"config.dump": b"{}"}, {}, tmp_path / "new")
    with pytest.raises(InvalidArgumentError, match=r"1\.tar: has no rootfs-diff\.tar"):
        archive.unpack(tmp_path / "1.tar", tmp_path / "none")


def test_a_sparse_member_is_refused(tmp_path: Path) -> None:
    """A few bytes of one could become the size of the archive, a hundred thousand times."""
    with tarfile.open(tmp_path / "0.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo("checkpoint/pages-1.img")
        member.pax_headers = {"GNU.sparse.map": "0,0", "GNU.sparse.size": "9000"}
        tar.addfile(member)
        filler = tarfile.TarInfo("container.log")
        filler.size = 9000
        tar.addfile(filler, io.BytesIO(bytes(9000)))
    (tmp_path / "target").mkdir()
    with pytest.raises(InvalidArgumentError, match="pages-1"):
        archive.unpack(tmp_path / "0.tar", tmp_path / "target")


def test_a_name_of_megabytes_is_refused_before_it_is_read(tmp_path: Path) -> None:
    """The file may be sparse: on the disk it takes next to nothing."""
    long = tarfile.TarInfo("x")
    long.type, long.size = tarfile.GNUTYPE_LONGNAME, 64 << 20
    with (tmp_path / "0.tar").open("wb") as file:
        file.write(long.tobuf(tarfile.GNU_FORMAT))
        file.truncate(65 << 20)
    (tmp_path / "target").mkdir()
    with pytest.raises(InvalidArgumentError, match="an extended header of more than"):
        archive.unpack(tmp_path / "0.tar", tmp_path / "target")
