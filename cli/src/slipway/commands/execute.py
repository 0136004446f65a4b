"""exec: a command in a running container."""

import sys
from argparse import Namespace

from common.api.runtime.v1 import runtime_pb2 as pb
from common.clients.shim import ShimClient
from common.errors import InvalidArgumentError, SlipwayError, UnavailableError, UnknownError
from common.observe.trace import traceparent
from slipway import exitcode
from slipway.connect import node, runtimed
from slipway.options.variables import environment
from slipway.output import render
from slipway.streams import conversation, terminal


async def execute(arguments: Namespace) -> int:
    """Run a command with our streams; its exit code is ours."""
    if not arguments.command:
        message = "exec: no command given"
        raise InvalidArgumentError(message)
    if arguments.detach and (arguments.interactive or arguments.tty):
        message = "exec: --detach has no streams: leave out -i and -t"
        raise InvalidArgumentError(message)
    keys = terminal.detach_keys(arguments.detach_keys)
    terminal.require_terminal(wants_tty=arguments.tty, interactive=arguments.interactive)
    envs = environment(arguments)
    async with node(arguments.run_dir) as on, runtimed(arguments.run_dir) as backend:
        found = await on.container(arguments.container)
        wanted = pb.PrepareExecRequest(
            container_id=found.id,
            cmd=arguments.command,
            tty=arguments.tty,
            stdin=arguments.interactive,
            user=arguments.user,
            working_dir=arguments.workdir,
            envs=envs,
            privileged=arguments.privileged,
        )
        address = await backend.PrepareExec(wanted)
    async with await ShimClient.connect(address.socket_path) as shim:
        try:
            if arguments.detach:
                await shim.exec_detached(address.exec_id, address.process, traceparent=traceparent())
                return 0
            stream = await shim.exec_stream(
                address.exec_id,
                address.process,
                tty=arguments.tty,
                stdin=arguments.interactive,
                traceparent=traceparent(),
            )
        except UnknownError as exc:
            sys.stderr.write(f"slipway: {render.complaint(exc)}\n")
            return exitcode.of_start(exc)
        try:
            code = await conversation.converse(
                stream, tty=arguments.tty, stdin=arguments.interactive, keys=keys
            )
        except SlipwayError as exc:
            if not isinstance(exc, UnknownError):
                raise
            sys.stderr.write(f"slipway: {render.complaint(exc)}\n")
            return exitcode.of_start(exc)
        finally:
            await stream.close()
    if code is None:
        message = f"the shim of {arguments.container!r} cut the stream off: the container may have ended"
        raise UnavailableError(message)
    return max(code, 0)
