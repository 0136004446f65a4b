"""Checkpoints over CRI: every rule of their arguments, and the truth about the machine."""

import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypedDict

import grpc
import pytest

from common.api.cri.v1 import api_pb2 as cri_pb
from devtools.cri import Answer, Cri, Request
from tests.e2e.test_e2e_pods import pod
from tests.support import logs, refusals
from tests.support.eventually import eventually, until
from tests.support.node import TestNode

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(120)]

CODE = grpc.StatusCode
MISSING = "checkpoints do not work on this machine: "


async def refused(
    method: "grpc.aio.UnaryUnaryMultiCallable[Request, Answer]",
    request: Request,
    timeout_s: float | None = 60,
) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await method(request, timeout=timeout_s)
    return caught.value.code(), refusals.told(caught)


@pytest.mark.parametrize(
    ("location", "timeout", "code", "named"),
    [
        ("", 0, CODE.INVALID_ARGUMENT, "location"),
        ("relative.tar", 0, CODE.INVALID_ARGUMENT, "relative.tar"),
        ("/tmp/../etc/x.tar", 0, CODE.INVALID_ARGUMENT, "leads upwards"),
        ("/nonexistent/x.tar", 0, CODE.NOT_FOUND, "/nonexistent"),
        ("/etc/passwd", 0, CODE.ALREADY_EXISTS, "/etc/passwd"),
        ("/tmp/never.tar", -1, CODE.INVALID_ARGUMENT, "timeout"),
    ],
)
async def test_where_a_checkpoint_may_go(
    cri: Cri, busybox: str, location: str, timeout: int, code: grpc.StatusCode, named: str
) -> None:
    _, container_id = await pod(cri, "ckpt-where", busybox, ["sleep", "1000"])
    request = cri_pb.CheckpointContainerRequest(container_id=container_id, location=location, timeout=timeout)
    found = await refused(cri.runtime.CheckpointContainer, request)
    assert found[0] is code
    assert named in found[1]


def can_dump(handler: str) -> bool:
    """Whether this machine has what a dump by this handler needs."""
    criu = shutil.which("criu")
    built = {"runc": True, "crun": b"+CRIU" in subprocess.check_output(["crun", "--version"])}
    if criu is None or not built.get(handler):
        return False
    return subprocess.run([criu, "check"], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("handler", ["crun", "runc", "runsc"])
async def test_checkpoints_are_whole_or_the_answer_says_what_is_missing(
    cri: Cri, busybox: str, tmp_path: Path, handler: str
) -> None:
    script = "echo changed > /written; i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done"
    sandbox_id, container_id = await pod(
        cri, f"ckpt-{handler}", busybox, ["sh", "-c", script], handler=handler
    )
    output = tmp_path / "pod"
    output.mkdir()
    alone = cri_pb.CheckpointContainerRequest(container_id=container_id, location=str(tmp_path / "c.tar"))
    whole = cri_pb.CheckpointPodRequest(
        pod_sandbox_id=sandbox_id, output_path=str(output), container_ids=[container_id]
    )
    log = Path((await cri.status(container_id)).log_path)
    if can_dump(handler):
        eventually(lambda: b"1" in log.read_bytes(), what="the first line")
        await cri.call(cri.runtime.CheckpointContainer, alone)
        await cri.call(cri.runtime.CheckpointPod, whole)
        for path in (tmp_path / "c.tar", output / "0.tar"):
            _check_archive(path)
        (held,) = json.loads((output / "pod.json").read_text())["containers"]
        assert (held["name"], held["archive"]) == ("c", "0.tar")
    else:
        for code, said in (
            await refused(cri.runtime.CheckpointContainer, alone),
            await refused(cri.runtime.CheckpointPod, whole),
        ):
            assert code is CODE.FAILED_PRECONDITION
            assert said.startswith(MISSING)
        assert list(tmp_path.rglob("*")) == [output]
    assert (await cri.status(container_id)).state == cri_pb.CONTAINER_RUNNING
    size = log.stat().st_size
    eventually(lambda: log.stat().st_size > size, what="the container to run on")


def _check_archive(path: Path) -> None:
    assert path.stat().st_mode & 0o777 == 0o600
    with tarfile.open(path) as tar:
        names = [member.name for member in tar if member.isreg()]
        assert len(names) == len(tar.getmembers())
        assert {"config.dump", "spec.dump", "status.dump", "checkpoint/inventory.img"} <= set(names)
        with tarfile.open(fileobj=tar.extractfile("rootfs-diff.tar")) as diff:
            assert _content(diff, "written") == b"changed\n"
        assert b"stdout F 1\n" in _content(tar, "container.log")


def _content(tar: tarfile.TarFile, name: str) -> bytes:
    file = tar.extractfile(name)
    assert file is not None, name
    return file.read()


COUNT = "rm /bin/tac; echo mine > /bin/mine; i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done"
WRITE = "i=0; while :; do i=$((i+1)); echo $i > /new; mv /new /count; sleep 0.05; done"


def last(log: Path) -> int:
    """The number on the last whole line of a log; 0 when there is none."""
    return int(["0", *logs.lines(log)][-1])


@pytest.mark.beyond_debian
@pytest.mark.parametrize("host_network", [True, False], ids=["host", "cni"])
async def test_a_pod_goes_on_from_its_checkpoint(
    cri: Cri, node: TestNode, busybox: str, tmp_path: Path, host_network: bool
) -> None:
    if not can_dump("runc"):
        pytest.skip("no CRIU that works here; what is said then has its tests above")
    name = f"restored-{host_network}".lower()
    sandbox = cri.sandbox_config(name, host_network=host_network)
    sandbox.linux.security_context.namespace_options.pid = cri_pb.CONTAINER
    await cri.pull(busybox)
    first = await cri.run_sandbox(sandbox, "runc")
    configs = [
        cri.container_config(key, busybox, ["sh", "-c", script])
        for key, script in (("c", COUNT), ("d", WRITE))
    ]
    ids = [await cri.create(first, config, sandbox) for config in configs]
    for container_id in ids:
        await cri.start(container_id)
    log = node.logs / name / "c.log"
    eventually(lambda: last(log) > 20, what="twenty lines")
    await cri.call(
        cri.runtime.CheckpointPod,
        cri_pb.CheckpointPodRequest(pod_sandbox_id=first, output_path=str(tmp_path), container_ids=ids),
    )
    await cri.remove_sandbox(first)
    dumped = last(log)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    log.unlink()
    request = cri_pb.RestorePodRequest(
        checkpoint_path=str(tmp_path), config=sandbox, container_configs=configs, runtime_handler="runc"
    )
    restored = await cri.call(cri.runtime.RestorePod, request)
    assert [made.name for made in restored.restored_containers] == ["c", "d"]
    for made in restored.restored_containers:
        assert (await cri.status(made.container_id)).state == cri_pb.CONTAINER_CREATED
        await cri.start(made.container_id)
        assert (await cri.status(made.container_id)).state == cri_pb.CONTAINER_RUNNING
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    eventually(lambda: last(log) > dumped, what="the counter to go on")
    assert 20 < int(logs.lines(log)[0]) <= dumped + 1
    shown = cri_pb.PodSandboxStatusRequest(pod_sandbox_id=restored.pod_sandbox_id, verbose=True)
    facts = json.loads((await cri.call(cri.runtime.PodSandboxStatus, shown)).info["info"])
    for made in restored.restored_containers:
        asked = cri_pb.ContainerStatusRequest(container_id=made.container_id, verbose=True)
        pid = json.loads((await cri.call(cri.runtime.ContainerStatus, asked)).info["info"])["pid"]
        for kind, pinned in facts["namespaces"].items():
            own = Path(f"/proc/{pid}/ns") / {"network": "net"}.get(kind, kind)
            assert own.stat().st_ino == Path(pinned).stat().st_ino, kind
    counter, writer = [made.container_id for made in restored.restored_containers]
    found = await cri.exec(counter, ["sh", "-c", "cat /bin/mine; test -e /bin/tac || echo gone"])
    assert found.stdout == b"mine\ngone\n"

    async def counted() -> int:
        return int((await cri.exec(writer, ["cat", "/count"])).stdout or 0)

    count = await counted()

    async def goes_on() -> bool:
        return await counted() > count

    await until(goes_on, "the count to go on")
    assert count > 1
    # a checkpoint of what was restored has what both lives wrote
    await cri.call(
        cri.runtime.CheckpointContainer,
        cri_pb.CheckpointContainerRequest(container_id=counter, location=str(tmp_path / "again.tar")),
    )
    with (
        tarfile.open(tmp_path / "again.tar") as tar,
        tarfile.open(fileobj=tar.extractfile("rootfs-diff.tar")) as diff,
    ):
        assert {"bin/mine", "bin/tac"} <= set(diff.getnames())
    assert not list(node.data_dir.glob("runtimed/containers/*/dump"))


async def test_a_container_that_does_not_run_has_nothing_to_dump(
    cri: Cri, busybox: str, tmp_path: Path
) -> None:
    _, container_id = await pod(cri, "ckpt-ended", busybox, ["sleep", "1000"])
    await cri.stop(container_id)
    request = cri_pb.CheckpointContainerRequest(container_id=container_id, location=str(tmp_path / "c.tar"))
    code, said = await refused(cri.runtime.CheckpointContainer, request)
    assert (code, "not running" in said) == (CODE.FAILED_PRECONDITION, True)


class PodFields(TypedDict, total=False):
    """Of a CheckpointPodRequest."""

    pod_sandbox_id: str
    output_path: str
    container_ids: list[str]
    options: dict[str, str]


async def test_a_pods_checkpoint_has_its_rules(cri: Cri, busybox: str, tmp_path: Path) -> None:
    sandbox_id, one = await pod(cri, "ckpt-pod", busybox, ["sleep", "1000"])
    sandbox = cri.sandbox_config("ckpt-pod", host_network=True)
    two = await cri.create(sandbox_id, cri.container_config("d", busybox, ["sleep", "1000"]), sandbox)
    await cri.start(two)
    full, link = tmp_path / "full", tmp_path / "link"
    (full / "x").mkdir(parents=True)
    empty = tmp_path / "empty"
    empty.mkdir()
    link.symlink_to(empty)
    good: PodFields = {"pod_sandbox_id": sandbox_id, "output_path": str(empty), "container_ids": [one, two]}
    bad: list[tuple[PodFields, grpc.StatusCode, str]] = [
        ({"output_path": "relative"}, CODE.INVALID_ARGUMENT, "relative"),
        ({"output_path": str(tmp_path / "none")}, CODE.NOT_FOUND, "none"),
        ({"output_path": str(full)}, CODE.FAILED_PRECONDITION, "not empty"),
        ({"output_path": str(link)}, CODE.INVALID_ARGUMENT, "link"),
        ({"output_path": "/etc/passwd"}, CODE.INVALID_ARGUMENT, "passwd"),
        ({"options": {"fast": "yes"}}, CODE.INVALID_ARGUMENT, "fast"),
        ({"container_ids": [one]}, CODE.INVALID_ARGUMENT, two),
        ({"container_ids": [one, two, two]}, CODE.INVALID_ARGUMENT, "twice"),
        ({"container_ids": [one, two, "beef"]}, CODE.INVALID_ARGUMENT, "beef"),
        ({"container_ids": []}, CODE.INVALID_ARGUMENT, "missing"),
        ({"pod_sandbox_id": "beef"}, CODE.NOT_FOUND, "beef"),
    ]
    for change, code, named in bad:
        fields: PodFields = {**good, **change}
        found = await refused(cri.runtime.CheckpointPod, cri_pb.CheckpointPodRequest(**fields))
        assert found[0] is code, change
        assert named in found[1]
    found = await refused(cri.runtime.CheckpointPod, cri_pb.CheckpointPodRequest(**good), timeout_s=None)
    assert (found[0], "deadline" in found[1]) == (CODE.INVALID_ARGUMENT, True)
    assert not list(empty.iterdir())


@pytest.fixture
async def checkpoint(cri: Cri, busybox: str, tmp_path: Path) -> Path:
    """What a pod's checkpoint looks like, of one container named c."""
    held = {"name": "c", "archive": "0.tar", "image_id": await cri.pull(busybox)}
    manifest = {"pod": "p", "namespace": "default", "uid": "u", "containers": [held], "schema": 1}
    (tmp_path / "pod.json").write_text(json.dumps(manifest))
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("config.dump"))
    return tmp_path


def restore_request(
    cri: Cri,
    image: str,
    path: Path | str,
    *names: str,
    runtime_handler: str = "",
    options: Mapping[str, str] | None = None,
) -> cri_pb.RestorePodRequest:
    configs = [cri.container_config(name, image, ["true"]) for name in names]
    config = cri.sandbox_config("restored", host_network=True)
    return cri_pb.RestorePodRequest(
        checkpoint_path=str(path),
        config=config,
        container_configs=configs,
        runtime_handler=runtime_handler,
        options=options,
    )


async def test_a_restore_has_its_rules(cri: Cri, busybox: str, checkpoint: Path) -> None:
    before = {path.name: path.read_bytes() for path in checkpoint.iterdir()}
    for request, code, named in (
        (restore_request(cri, busybox, "relative", "c"), CODE.INVALID_ARGUMENT, "relative"),
        (restore_request(cri, busybox, "/nonexistent", "c"), CODE.NOT_FOUND, "/nonexistent"),
        (restore_request(cri, busybox, checkpoint), CODE.INVALID_ARGUMENT, "'c'"),
        (restore_request(cri, busybox, checkpoint, "c", "other"), CODE.INVALID_ARGUMENT, "other"),
        (restore_request(cri, busybox, checkpoint, "c", "c"), CODE.INVALID_ARGUMENT, "twice"),
        (restore_request(cri, busybox, checkpoint, "c", options={"o": "1"}), CODE.INVALID_ARGUMENT, "'o'"),
        (restore_request(cri, busybox, checkpoint, "c", runtime_handler="nope"), CODE.NOT_FOUND, "nope"),
        (restore_request(cri, "absent", checkpoint, "c"), CODE.NOT_FOUND, "absent"),
        (
            restore_request(cri, busybox, checkpoint, "c", runtime_handler="runsc"),
            CODE.FAILED_PRECONDITION,
            MISSING,
        ),
    ):
        found = await refused(cri.runtime.RestorePod, request)
        assert found[0] is code, found
        assert named in found[1]
    assert {path.name: path.read_bytes() for path in checkpoint.iterdir()} == before
    assert not (await cri.call(cri.runtime.ListPodSandbox, cri_pb.ListPodSandboxRequest())).items


def _link_member(tar: tarfile.TarFile) -> None:
    member = tarfile.TarInfo("config.dump")
    member.type, member.linkname = tarfile.SYMTYPE, "/etc/shadow"
    tar.addfile(member)


def _same_name_twice(tar: tarfile.TarFile) -> None:
    for _ in range(2):
        tar.addfile(tarfile.TarInfo("config.dump"))


HOSTILE: dict[str, Callable[[tarfile.TarFile], None]] = {
    "a link as a member": _link_member,
    "a way upwards": lambda tar: tar.addfile(tarfile.TarInfo("checkpoint/../../../etc/cron.d/x")),
    "an absolute name": lambda tar: tar.addfile(tarfile.TarInfo("/etc/passwd")),
    "a name twice": _same_name_twice,
}


@pytest.mark.parametrize("case", HOSTILE)
async def test_a_hostile_archive_is_refused(cri: Cri, busybox: str, checkpoint: Path, case: str) -> None:
    with tarfile.open(checkpoint / "0.tar", "w") as tar:
        HOSTILE[case](tar)
    code, said = await refused(cri.runtime.RestorePod, restore_request(cri, busybox, checkpoint, "c"))
    assert (code, "0.tar" in said) == (CODE.INVALID_ARGUMENT, True)


@pytest.mark.parametrize("name", ["pod.json", "0.tar"])
@pytest.mark.parametrize("kind", ["link", "fifo", "garbage", "missing"])
async def test_a_hostile_file_is_refused(
    cri: Cri, busybox: str, checkpoint: Path, name: str, kind: str
) -> None:
    """A checkpoint from elsewhere must not have a file of the host read (GHSA of containerd, 2026)."""
    path = checkpoint / name
    path.unlink()
    if kind == "link":
        path.symlink_to("/etc/shadow")
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "garbage":
        path.write_bytes(b"\xff" * 2000)
    code, said = await refused(cri.runtime.RestorePod, restore_request(cri, busybox, checkpoint, "c"))
    assert (code, name in said) == (CODE.INVALID_ARGUMENT, True)
    assert "root:" not in said
