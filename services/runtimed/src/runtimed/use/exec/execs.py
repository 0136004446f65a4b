"""Commands in running containers, and where to stream."""

import json
import secrets
from typing import Any

import anyio.to_thread

from common.api.cri.v1 import api_pb2 as cri
from common.api.runtime.v1 import runtime_pb2 as pb
from common.errors import FailedPreconditionError, InvalidArgumentError
from common.failpoint import failpoint
from runtimed import selection
from runtimed.oci import capabilities, users
from runtimed.oci.process import check_variable
from runtimed.oci.process import directory as process_directory
from runtimed.oci.spec import process_for_exec
from runtimed.record import ContainerRecord, ContainerState
from runtimed.use.bundles import bundle
from runtimed.use.exec.book import ExecBook
from runtimed.use.lifespan import life_span
from runtimed.use.parts import Parts

ANSWER_BYTES = (16 << 20) - (64 << 10)
"""Of both outputs. A kubelet takes messages of 16 MiB, and of a larger one not even the exit code."""


class Execs:
    """Extra processes of this node's containers."""

    def __init__(self, parts: Parts, book: ExecBook) -> None:
        self._parts = parts
        self._book = book

    async def sync(self, request: cri.ExecSyncRequest) -> cri.ExecSyncResponse:
        """Run a command and collect what it writes, as much as a kubelet takes.

        Raises:
            NotFoundError: no such container.
            FailedPreconditionError: it does not run.
            DeadlineExceededError: the command was killed for its time.
        """
        if request.timeout < 0:
            raise InvalidArgumentError(f"timeout: {request.timeout} is negative")
        record = self._running(request.container_id)
        self._parts.rouse_cgroups()
        process = await self._process(record, list(request.cmd), tty=False)
        exec_id = self._new_id(record, list(request.cmd), tty=False)
        await failpoint("runtimed.exec.asked")
        with life_span("runtimed.exec.sync", record):
            outcome = await self._parts.shims.exec_sync(
                record.socket_path, exec_id, process, float(request.timeout)
            )
        await failpoint("runtimed.exec.answered")
        stdout, stderr = _fitted(outcome.stdout, outcome.stderr)
        return cri.ExecSyncResponse(stdout=stdout, stderr=stderr, exit_code=outcome.exit_code)

    async def prepare(self, request: pb.PrepareExecRequest) -> pb.ShimAddress:
        """Where to stream a command, and the process to ask for there."""
        record = self._running(request.container_id)
        made = await self._process(record, list(request.cmd), tty=request.tty)
        process = await anyio.to_thread.run_sync(self._otherwise, record, made, request)
        exec_id = self._new_id(record, list(request.cmd), tty=request.tty)
        return pb.ShimAddress(
            socket_path=record.socket_path,
            container_id=record.id,
            process=process,
            exec_id=exec_id,
            tty=request.tty,
        )

    def _otherwise(self, record: ContainerRecord, made: bytes, wanted: pb.PrepareExecRequest) -> bytes:
        """The process with what a request has in place of the container's own. Blocking."""
        if not (wanted.user or wanted.working_dir or wanted.envs or wanted.privileged):
            return made
        found = json.loads(made)
        if wanted.user:
            user = users.resolve(cri.LinuxContainerSecurityContext(), wanted.user, record.rootfs)
            found["user"] = {"uid": user.uid, "gid": user.gid, "additionalGids": list(user.groups)}
        if wanted.working_dir:
            found["cwd"] = process_directory(wanted.working_dir, {})
        variables = {item.key: f"{item.key}={check_variable(item.key, item.value)}" for item in wanted.envs}
        kept = [text for text in found["env"] if text.partition("=")[0] not in variables]
        found["env"] = [*kept, *variables.values()]
        if wanted.privileged:
            sandbox = self._parts.sandboxes.store.get(record.sandbox_id)
            sandboxed = self._parts.handler(sandbox.handler)[1].sandboxed
            every = capabilities.of_handler(self._parts.host_caps, sandboxed=sandboxed)
            context = cri.LinuxContainerSecurityContext(privileged=True)
            found["capabilities"] = capabilities.resolve(context, every)
            found["noNewPrivileges"] = False
        return json.dumps(found).encode()

    def prepare_attach(self, request: pb.PrepareAttachRequest) -> pb.ShimAddress:
        """Where to stream a container's stdio."""
        record = selection.find(self._parts.containers.store, "container", request.container_id)
        if not record.state.has_init:
            raise FailedPreconditionError(f"container {record.id}: is {record.state}, not running")
        config = cri.ContainerConfig.FromString(record.config)
        return pb.ShimAddress(
            socket_path=record.socket_path,
            container_id=record.id,
            tty=config.tty,
            stdin_once=config.stdin_once,
        )

    def _running(self, name: str) -> ContainerRecord:
        record = selection.find(self._parts.containers.store, "container", name)
        if record.state is not ContainerState.RUNNING:
            hint = ": unpause it first" if record.state is ContainerState.PAUSED else ""
            raise FailedPreconditionError(f"container {record.id}: is {record.state}, not running{hint}")
        return record

    async def _process(self, record: ContainerRecord, cmd: list[str], *, tty: bool) -> bytes:
        held: Any = self._book.processes.get(record.id)
        if held is None:
            spec = await anyio.to_thread.run_sync(bundle.read_spec, record.bundle_path)
            held = self._book.processes[record.id] = spec["process"]
        return json.dumps(process_for_exec({"process": held}, cmd, tty=tty)).encode()

    def _new_id(self, record: ContainerRecord, cmd: list[str], *, tty: bool) -> str:
        exec_id = secrets.token_hex(16)
        self._book.add(exec_id, record.id, cmd, tty=tty)
        return exec_id


def _fitted(stdout: bytes, stderr: bytes) -> tuple[bytes, bytes]:
    """The beginnings of both that fit into an answer; what one of them leaves of its half is the other's."""
    errors = stderr[: max(ANSWER_BYTES // 2, ANSWER_BYTES - len(stdout))]
    return stdout[: ANSWER_BYTES - len(errors)], errors
