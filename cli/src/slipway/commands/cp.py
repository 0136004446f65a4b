"""cp: files into a container and out of it, by docker's rules, also when it has ended."""

import json
import os
import stat
import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.api.cri.v1 import api_pb2 as cri
from common.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError
from slipway.connect import Node, node
from slipway.files import Entry, Place, Target, entries, from_archive, to_archive
from slipway.output import render
from slipway.streams import questions


async def cp(arguments: Namespace) -> int:
    """Copy between a container and our files, or a tar stream."""
    source, target = _split(arguments.source), _split(arguments.target)
    if bool(source[0]) == bool(target[0]):
        message = "cp: want one of SOURCE and TARGET as CONTAINER:PATH, and the other as a path or -"
        raise InvalidArgumentError(message)
    async with node(arguments.run_dir) as on:
        with _root(await _facts(on, source[0] or target[0])) as root, questions.answering():
            if target[0]:
                _into(arguments, root, target[1])
            else:
                _out_of(arguments, root, source[1])
    return 0


def _split(text: str) -> tuple[str, str]:
    """Container and path; no container for a path of ours, which may have a colon after a slash or dot."""
    name, joint, path = text.partition(":")
    if not joint or text.startswith((".", "/")) or text == "-":
        return "", text
    if not name or not path:
        message = f"{text!r}: want CONTAINER:PATH"
        raise InvalidArgumentError(message)
    return name, path


async def _facts(on: Node, name: str) -> dict[str, object]:
    request = cri.ContainerStatusRequest(container_id=(await on.container(name)).id, verbose=True)
    answer = await on.runtime.ContainerStatus(request)
    found: dict[str, object] = json.loads(answer.info["info"])
    return found | {"id": answer.status.id, "name": name}


@contextmanager
def _root(facts: dict[str, object]) -> Iterator[Place]:
    """Its root as its processes see it, with volumes; that of its file system alone when none runs."""
    runs = facts["state"] in ("running", "paused")
    where = f"/proc/{facts['pid']}/root" if runs else str(facts["rootfs"])
    try:
        fd = os.open(where, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as exc:
        message = f"container {facts['name']!r}: its files cannot be reached: {exc.strerror}"
        raise FailedPreconditionError(message) from exc
    try:
        # The pid may have become another process's since runtimed told it.
        if runs and str(facts["id"]) not in Path(f"/proc/{facts['pid']}/cgroup").read_text():
            message = f"container {facts['name']!r}: has ended just now: try again"
            raise FailedPreconditionError(message)
        yield Place(fd)
    finally:
        os.close(fd)


def _into(arguments: Namespace, root: Place, path: str) -> None:
    if arguments.source == "-":
        if root.kind(path) != stat.S_IFDIR:
            message = f"{arguments.target!r}: an archive is unpacked into a directory, which this is not"
            raise InvalidArgumentError(message)
        target = Target(root, path, owners=True, name=arguments.target)
        _write(target, from_archive(sys.stdin.buffer))
    else:
        target = _copy(arguments, Place(), arguments.source, root, path)
    _told(arguments, target)


def _out_of(arguments: Namespace, root: Place, path: str) -> None:
    if arguments.target == "-":
        if sys.stdout.isatty():
            message = "cp: standard output is a terminal: send the archive to a file or a pipe"
            raise InvalidArgumentError(message)
        name = _last(path)
        _is_directory(arguments, root, path, follow=arguments.follow_link)
        to_archive(entries(root, path, name, follow=arguments.follow_link))
    else:
        _told(arguments, _copy(arguments, root, path, Place(), arguments.target))


def _copy(arguments: Namespace, source: Place, path: str, target: Place, where: str) -> Target:
    """Docker's rules for what exists and what ends in a slash."""
    follow = arguments.follow_link or path.endswith("/")
    is_directory = _is_directory(arguments, source, path, follow=follow)
    there = target.kind(where)
    contents = path == "." or path.endswith("/.")
    if there == stat.S_IFDIR:
        directory, name = where, "." if contents else _last(path)
    elif there and is_directory:
        message = f"{arguments.target!r}: is a file, and {arguments.source!r} a directory"
        raise InvalidArgumentError(message)
    elif where.endswith("/") and not is_directory:
        message = f"{arguments.target!r}: no such directory"
        raise NotFoundError(message)
    else:
        directory, _, name = where.rstrip("/").rpartition("/")
        directory = directory or ("/" if where.startswith("/") else ".")
        if target.kind(directory) != stat.S_IFDIR:
            message = f"{arguments.target!r}: no such directory {directory!r}"
            raise NotFoundError(message)
    prefix = arguments.target.removesuffix(where)  # of the container
    made = Target(target, directory, owners=arguments.archive, name=f"{prefix}{directory}")
    _write(made, entries(source, path, name, follow=follow))
    return made


def _is_directory(arguments: Namespace, source: Place, path: str, *, follow: bool) -> bool:
    try:
        first = next(entries(source, path, "x", follow=follow), None)
    except (FileNotFoundError, NotADirectoryError) as exc:
        message = f"{arguments.source}: {exc.strerror}"
        raise NotFoundError(message) from exc
    if first is None:
        message = f"{arguments.source!r}: is no file and no directory"
        raise InvalidArgumentError(message)
    return first[0].isdir()


def _last(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2] or "."


def _write(target: Target, found: Iterator[Entry]) -> None:
    for info, data in found:
        target.write(info, data)


def _told(arguments: Namespace, target: Target) -> None:
    for name in target.skipped:
        sys.stderr.write(f"slipway: {render.clean(name)}: is a device or a pipe: not copied\n")
    if not arguments.quiet:
        size = render.size(target.bytes)
        sys.stderr.write(f"copied {size} to {render.clean(arguments.target)}\n")
