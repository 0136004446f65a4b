"""ops: the operations of imaged and runtimed that go on now."""

import sys
from argparse import Namespace
from typing import Any

from common.api.operations.v1 import operations_pb2 as pb
from common.errors import InvalidArgumentError, NotFoundError
from slipway.connect import operations_of
from slipway.output import render

SERVICES = ("imaged", "runtimed")


async def ops(arguments: Namespace) -> int:
    """List operations, or cancel one."""
    if arguments.action == "cancel":
        return await _cancel(arguments.run_dir, arguments.id)
    found: list[tuple[str, Any]] = []
    for service in SERVICES:
        async with operations_of(arguments.run_dir, service) as backend:
            found += [(service, each) for each in (await backend.List(pb.ListRequest())).operations]
    if arguments.report == "json":
        render.document([{"service": service} | render.fields(each) for service, each in found])
        return 0
    rows = [
        (
            each.id,
            service,
            each.kind,
            each.object,
            render.age(each.began_at),
            each.step,
            _progress(each),
            each.caller,
        )
        for service, each in sorted(found, key=lambda pair: pair[1].began_at)
    ]
    render.table(("ID", "SERVICE", "OPERATION", "OBJECT", "BEGAN", "STEP", "PROGRESS", "CALLER"), rows)
    return 0


def _progress(operation: Any) -> str:
    if not operation.total_bytes:
        return ""
    return f"{render.size(operation.done_bytes)} of {render.size(operation.total_bytes)}"


async def _cancel(run_dir: str, name: str) -> int:
    if not name:
        message = "ops cancel: which? `slipway ops` lists them"
        raise InvalidArgumentError(message)
    for service in SERVICES:
        async with operations_of(run_dir, service) as backend:
            try:
                ended = (await backend.Cancel(pb.CancelRequest(id=name))).operation
            except NotFoundError:
                continue
            sys.stdout.write(render.clean(f"{ended.id} {ended.kind} {ended.object}") + "\n")
            return 0
    message = f"no operation {name!r} goes on: `slipway ops` lists them"
    raise NotFoundError(message)
