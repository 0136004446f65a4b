"""why: the verdict on a container or a pod, then what it rests on."""

import sys
import time
from argparse import Namespace
from contextlib import suppress
from typing import Any

import anyio

from common.api.runtime.v1 import runtime_pb2 as pb
from common.errors import SlipwayError
from slipway.connect import imaged, runtimed
from slipway.output import render

WELL = ("running", "completed", "created", "creating", "starting", "paused")
"""Causes that are no trouble."""
NS_PER_S = 1_000_000_000
IMAGE_S = 2.0
"""The longest that is waited for what imaged knows."""


async def why(arguments: Namespace) -> int:
    """Print the explanation of what has this name."""
    request = pb.ExplainRequest(name=arguments.name, log_lines=max(0, arguments.tail))
    async with runtimed(arguments.run_dir) as backend:
        found = await backend.Explain(request)
    for each in (found, *found.containers):
        trouble = await _of_image(arguments.run_dir, each.image)
        if trouble:
            each.next_steps.append(trouble)
    if arguments.report == "json":
        render.document(render.fields(found))
    else:
        _show(found, "")
    return 0


async def _of_image(run_dir: str, image: str) -> str:
    """What is wrong with an image that comes while it is used; empty when nothing is known of it."""
    damage = ""
    # it is gone, or imaged is away: the verdict stands without
    with suppress(SlipwayError), anyio.move_on_after(IMAGE_S):
        async with imaged(run_dir) as client:
            damage = (await client.get(image)).damage if image else ""
    return (
        f"Its image comes while it is used, and reads of it fail (docs/lazy.md): {damage}" if damage else ""
    )


def _show(found: Any, indent: str) -> None:
    colour = "green" if found.cause in WELL else "yellow"
    title = f"{found.kind} {found.name or found.image}"
    _line(indent, f"{render.styled(render.clean(title), 'bold')}  {render.clean(_where(found))}".rstrip())
    _line(indent, render.styled(render.sentence(found.verdict), colour))
    for step in found.next_steps:
        _line(indent, "-> " + render.sentence(step))
    if found.evidence:
        _line(indent, "")
    day = time.localtime(max((fact.at for fact in found.evidence), default=0) / NS_PER_S)[:3]
    for fact in found.evidence:
        actor = f" ({fact.actor})" if fact.actor else ""
        _line(indent + "  ", f"{_at(fact.at, day):<19}  {fact.what:<13} {render.sentence(fact.text + actor)}")
    if found.log:
        _line(indent, "")
        _line(indent + "  ", "its last output:")
        for text in found.log:
            _line(indent + "    ", render.clean(text))
    for inside in found.containers:
        _line("", "")
        _show(inside, indent + "  ")


def _where(found: Any) -> str:
    parts = [found.id[:12]] if found.id else []
    if found.image:
        parts.append(found.image)
    if found.kind != "pod" and found.pod_name:
        parts.append(f"in pod {found.pod_name}")
    return ", ".join(parts)


def _at(at_ns: int, day: tuple[int, ...]) -> str:
    """The time, with its date unless it is of the same day as the last fact."""
    if not at_ns:
        return ""
    when = time.localtime(at_ns / NS_PER_S)
    return time.strftime("%H:%M:%S" if when[:3] == day else "%Y-%m-%d %H:%M:%S", when)


def _line(indent: str, text: str) -> None:
    sys.stdout.write(f"{indent}{text}\n" if text else "\n")
