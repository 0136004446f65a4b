"""RUN: a command in a container on what is there so far, with mounts that leave nothing behind."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio.to_thread

from common.api.cri.v1 import api_pb2 as cri
from common.errors import FailedPreconditionError
from slipway.building import copying, mounts
from slipway.building.dockerfile import Instruction
from slipway.building.heredocs import document
from slipway.building.progress import Step
from slipway.building.results import Done
from slipway.building.site import Site
from slipway.building.state import State, key
from slipway.building.variables import expand
from slipway.building.worker import Job
from slipway.connect import facts

_PREDEFINED = tuple(
    name for stem in ("http_proxy", "https_proxy", "no_proxy", "all_proxy") for name in (stem, stem.upper())
)
_SCRIPT = "/dev/pipes/script"
"""Below /dev, as BuildKit has it, of which nothing is in a layer."""


@dataclass(frozen=True, slots=True)
class _Bound:
    """A bind mount and what it shows: of an image, or what is copied of the context."""

    bind: mounts.Bind
    image: str
    sources: list[copying.Source]
    key: str


async def run(site: Site, state: State, step: Instruction, number: int, shown: Step) -> None:
    """Have the image with what the command changed in `state`.

    Raises:
        InvalidArgumentError: an option is wrong.
        FailedPreconditionError: the command failed.
    """
    options = step.options("mount", "network")
    if options.get("network", ["default"]) != ["default"]:
        step.refuse("--network: only default is done here; `slipway build --network` is for all")
    command, script = list(step.words), ""
    if not step.exact:
        script = _script(step)
        command = _interpreted(step, script) or [*state.shell, script]
    arguments = {name: value for name, value in state.arguments.items() if name not in state.environment}
    given = {k: v for k, v in site.wish.arguments.items() if k in _PREDEFINED}
    texts = options.get("mount", [])
    bound = [await _bound(site, state, bind, number) for bind in mounts.binds(step, texts)]
    said = (*command, script, *step.flags, json.dumps(arguments, sort_keys=True))
    name = partial(key, state.key, "RUN", *said)
    data_dir = facts(site.on.run_dir).get("data_dir", "/var/lib/slipway")
    found: list[cri.Mount] = []
    seen: list[str] = []

    async def job(stack: AsyncExitStack) -> Job:
        mounted = mounts.mounted(step, texts, site.wish.secrets, data_dir, site.worker.space.path)
        found.extend(await stack.enter_async_context(mounted))
        more = []
        for one in bound:
            mount, read = await _bind(site, one, stack)
            more.append(mount)
            seen.append(read)
        if _SCRIPT in command:
            more.append(stack.enter_context(_file(script, site.worker.space.path)))
        return Job("", command, given | arguments, [*found, *more])

    async def work(container_id: str) -> Done:
        code = await site.worker.run(container_id, shown.output)
        if code:
            message = f"the command ended with exit code {code}"
            raise FailedPreconditionError(message)
        targets = [*(mount.container_path for mount in found), *(one.bind.target for one in bound)]
        return Done(name(*seen), [above for target in targets for above in _above(target)])

    await site.results.change(state, name(*(one.key for one in bound)), step.text, job, work, shown)


async def _bound(site: Site, state: State, bind: mounts.Bind, number: int) -> _Bound:
    """What a bind mount shows, found but not there yet."""
    if not bind.origin:
        source = copying.sources(site.wish.context, [bind.source], site.wish.ignore)
        digest = await anyio.to_thread.run_sync(copying.digest, source)
        return _Bound(bind, "", source, key("context", digest))
    image = await site.origin(expand(bind.origin, state.values), number)
    return _Bound(bind, image, [], key("image", image))


async def _bind(site: Site, one: _Bound, stack: AsyncExitStack) -> tuple[cri.Mount, str]:
    """The mount, of a container that only has it, and the key of what it shows.

    What a command writes there is lost with that container.
    """
    container_id = await stack.enter_async_context(
        site.worker.container(Job(one.image or await site.bases.scratch()))
    )
    path, shown = one.bind.source, one.key
    if not one.image:
        # of the context a copy, without what .dockerignore leaves out
        path = "/bound" if one.sources[0].is_directory() else f"/bound/{one.sources[0].name}"
        copied = await site.worker.within(container_id, copying.Copy(one.sources, "/bound/").write)
        shown = key("context", copied)
    async with site.worker.place(container_id) as place:
        with place.opened(path, os.O_PATH) as there:
            found = str(Path(f"/proc/self/fd/{there}").readlink())
    mount = cri.Mount(host_path=found, container_path=one.bind.target, readonly=not one.bind.writable)
    return mount, shown


def _script(step: Instruction) -> str:
    """A RUN in shell form as its shell reads it."""
    (line,) = step.words
    whole = document(step, line.strip())
    if whole:
        return whole.text
    return line + "".join(f"\n{doc.content}{doc.name}" for doc in step.heredocs)


def _interpreted(step: Instruction, script: str) -> list[str]:
    """The command of a heredoc that names its interpreter, as the kernel would run it; nothing for other scripts."""
    words = script.partition("\n")[0].removeprefix("#!").split(maxsplit=1)
    if not words or not script.startswith("#!") or not document(step, step.words[0].strip()):
        return []
    return [*(word.strip() for word in words), _SCRIPT]


@contextmanager
def _file(script: str, space: str) -> Iterator[cri.Mount]:
    """A script where its interpreter finds it."""
    with tempfile.TemporaryDirectory(dir=space) as directory:
        path = Path(directory, "script")
        path.write_text(script)
        path.chmod(0o755)
        yield cri.Mount(host_path=str(path), container_path=_SCRIPT, readonly=True)


def _above(path: str) -> list[str]:
    """A path and all above it, which were made to mount on."""
    parts = path.strip("/").split("/")
    return ["/" + "/".join(parts[:count]) for count in range(1, len(parts) + 1)]
