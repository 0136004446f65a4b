"""Makes the stages of a Dockerfile, each step from the image that the step before it made, or from the cache.

A step that changes files is cached under a key: that of what it stands on, what it says, and what it reads. The
image that it made is named after the key, so that it is found again, and goes with the images that nobody uses.
"""

import json
import os
import posixpath
import re
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

import anyio
import anyio.to_thread

from common.api.cri.v1 import api_pb2 as cri
from common.api.images.v1 import images_pb2 as pb
from common.clients.imaged import ImagedClient
from common.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError, SlipwayError
from slipway import render
from slipway.building import config, copying, fetching, mounts, platform, scratch
from slipway.building.dockerfile import Instruction, Stage, triggers
from slipway.building.ignore import Ignore
from slipway.building.needs import needed, stage_of
from slipway.building.progress import Progress, Step
from slipway.building.state import State, Wish, key
from slipway.building.variables import expand
from slipway.building.worker import Job, Worker
from slipway.commands.changes import MADE
from slipway.connect import Node, facts
from slipway.logins import auth_of
from slipway.places import Place

CACHE = "localhost/slipway-build"
"""Repository of what is cached; the tag is the key."""
_VERSION = "1"
_CHECKSUM = re.compile(r"sha256:[a-f0-9]{64}")
_HEREDOC = re.compile(r"<<-?[\"']?[A-Za-z_][A-Za-z0-9_]*[\"']?")
_PREDEFINED = tuple(
    name for stem in ("http_proxy", "https_proxy", "no_proxy", "all_proxy") for name in (stem, stem.upper())
)


@dataclass(frozen=True, slots=True)
class _Bound:
    """A bind mount and what it shows: of an image, or what is copied of the context."""

    bind: mounts.Bind
    image: str
    sources: list[copying.Source]
    key: str


class Builder:
    """Builds stages on one node.

    Args:
        on: the node.
        images: its imaged.
        worker: makes the containers.
        progress: told of each step.
        wish: what is wanted.
    """

    def __init__(
        self, on: Node, images: ImagedClient, worker: Worker, progress: Progress, wish: Wish
    ) -> None:
        self._on, self._images, self._worker = on, images, worker
        self._progress, self._wish = progress, wish
        self._stages: list[Stage] = []
        self._done: dict[int, str] = {}
        self._globals: dict[str, str] = {}
        self._locks: defaultdict[int, anyio.Lock] = defaultdict(anyio.Lock)
        self._room = anyio.CapacityLimiter(max(2, os.cpu_count() or 2))
        """For steps that work at the same time."""

    async def build(self, arguments: list[Instruction], stages: list[Stage], target: str) -> str:
        """Build a stage and those that it needs, the last one when none is named; returns the image's id.

        Raises, in a group, since stages are built at the same time:
            InvalidArgumentError: the Dockerfile is wrong; the message has file, line and instruction.
            FailedPreconditionError: a command failed.
        """
        self._stages = stages
        self._globals = platform.arguments()
        for one in arguments:
            self._globals |= self._argument(one, self._globals, {})
        wanted = self._stage(target, len(stages)) if target else len(stages) - 1
        if wanted is None:
            message = f"--target {target!r}: there is no such stage"
            raise InvalidArgumentError(message)
        async with anyio.create_task_group() as group:
            for number in sorted(needed(stages, wanted, self._globals)):
                group.start_soon(self._built, number)
        return self._done[wanted]

    def _stage(self, name: str, before: int) -> int | None:
        return stage_of(self._stages, name, before)

    async def _built(self, number: int) -> str:
        """The image of a stage; who comes while it is built waits for it."""
        async with self._locks[number]:
            if number not in self._done:
                self._done[number] = await self._made(number)
            return self._done[number]

    async def _made(self, number: int) -> str:
        stage = self._stages[number]
        try:
            base = expand(stage.base, self._globals)
        except InvalidArgumentError as exc:
            _refuse(stage.start, exc)
        state = await self._begin(stage, number, base)
        steps = [*state.triggers, *stage.steps]
        total = len(steps) + 1
        for count, step in enumerate(steps, 2):
            title = f"[{stage.name or f'stage-{number}'} {count}/{total}] {step.text}"
            with self._progress.step(title) as shown:
                try:
                    await self._step(state, step, number, shown)
                except (SlipwayError, OSError) as exc:
                    _refuse(step, exc)
        await self._flush(state)
        return state.image

    async def _begin(self, stage: Stage, number: int, base: str) -> State:
        for text in stage.start.options("platform").get("platform", []):
            try:
                platform.check(expand(text, self._globals))
            except InvalidArgumentError as exc:
                _refuse(stage.start, exc)
        other = self._stage(base, number)
        if other is not None:
            image = await self._built(other)
        else:
            title = f"[{stage.name or f'stage-{number}'} 1/{len(stage.steps) + 1}] FROM {base}"
            with self._progress.step(title) as shown:
                try:
                    image = await (self._scratch() if base == "scratch" else self._image(base, shown))
                except (SlipwayError, OSError) as exc:
                    _refuse(stage.start, exc)
        found = await self._images.get(image)
        if found.artifact_type:
            stage.start.refuse(
                f"{base} is an artifact of type {found.artifact_type!r}: no image stands on it"
            )
        inner = json.loads(found.config).get("config") or {}
        state = State(
            image=image,
            key=key(_VERSION, image, str(self._wish.epoch_s)),
            environment=dict(entry.partition("=")[::2] for entry in inner.get("Env") or []),
            directory=inner.get("WorkingDir") or "/",
            shell=inner.get("Shell") or ["/bin/sh", "-c"],
        )
        if inner.get("OnBuild"):
            # done here, and not again by whoever builds on this
            state.triggers = triggers(inner["OnBuild"], stage.start.where)
            state.change("ONBUILD []", stage.start)
        return state

    async def _scratch(self) -> str:
        """An image without layers."""

        async def pieces() -> AsyncIterator[bytes]:
            yield scratch.archive()

        return (await self._images.load(pieces(), name=f"{CACHE}:scratch", replace=True))[0].image.id

    async def _step(self, state: State, step: Instruction, number: int, shown: Step) -> None:
        match step.word:
            case "ARG":
                state.arguments |= self._argument(step, state.values, self._globals)
            case "RUN":
                await self._run(state, step, number, shown)
            case "COPY" | "ADD":
                await self._copy(state, step, number, shown)
            case "WORKDIR":
                await self._enter(state, step, shown)
            case word if word in config.WORDS:
                self._configure(state, step)
            case _:
                step.refuse("is not done here")

    def _argument(
        self, step: Instruction, values: Mapping[str, str], defaults: Mapping[str, str]
    ) -> dict[str, str]:
        found = {}
        for word in step.words:
            name, joint, value = word.partition("=")
            if name in self._wish.arguments:
                found[name] = self._wish.arguments[name]
            elif joint:
                found[name] = expand(value, {**values, **found})
            elif name in defaults:
                found[name] = defaults[name]
        return found

    def _configure(self, state: State, step: Instruction) -> None:
        if step.word != "HEALTHCHECK":
            step.options()
        if step.word == "ENTRYPOINT" and not state.has_command:
            state.change("CMD []", step)  # that of the image below was for its entrypoint
        state.has_command |= step.word == "CMD"
        text = config.change(step, state.values)
        if step.word == "ENV":
            state.environment |= config.pairs(step, state.values)
        elif step.word == "SHELL":
            if not step.exact:
                step.refuse('want JSON, such as ["/bin/bash", "-c"]')
            state.shell = list(step.words)
        state.change(text, step)

    async def _enter(self, state: State, step: Instruction, shown: Step) -> None:
        path = posixpath.join(state.directory, *(expand(word, state.values) for word in step.words))
        state.directory = posixpath.normpath(f"/{path.lstrip('/')}")
        change = f"WORKDIR {state.directory}"

        async def work(container_id: str) -> list[str]:
            await self._within(
                container_id, lambda root: copying.make_directories(root, state.directory, 0, 0)
            )
            return []

        await self._change(state, key(state.key, change), change, _plain, work, shown, changes=(change,))

    async def _run(self, state: State, step: Instruction, number: int, shown: Step) -> None:
        options = step.options("mount", "network")
        if options.get("network", ["default"]) != ["default"]:
            step.refuse("--network: only default is done here; `slipway build --network` is for all")
        command = list(step.words) if step.exact else [*state.shell, _script(step)]
        arguments = {name: value for name, value in state.arguments.items() if name not in state.environment}
        given = {k: v for k, v in self._wish.arguments.items() if k in _PREDEFINED}
        texts = options.get("mount", [])
        bound = [await self._bound(state, step, bind, number) for bind in mounts.binds(step, texts)]
        parts = ("RUN", *command, *step.flags, json.dumps(arguments, sort_keys=True), *(b.key for b in bound))
        data_dir = facts(self._on.run_dir).get("data_dir", "/var/lib/slipway")
        with mounts.mounted(step, texts, self._wish.secrets, data_dir, self._on.run_dir) as found:

            async def job(stack: AsyncExitStack) -> Job:
                more = [await self._bind(one, stack) for one in bound]
                return Job("", command, given | arguments, [*found, *more])

            async def work(container_id: str) -> list[str]:
                code = await self._worker.run(container_id, shown.output)
                if code:
                    message = f"the command ended with exit code {code}"
                    raise FailedPreconditionError(message)
                targets = [*(mount.container_path for mount in found), *(one.bind.target for one in bound)]
                return [above for target in targets for above in _above(target)]

            await self._change(state, key(state.key, *parts), step.text, job, work, shown)

    async def _bound(self, state: State, step: Instruction, bind: mounts.Bind, number: int) -> _Bound:
        """What a bind mount shows, found but not there yet."""
        if not bind.origin:
            source = copying.sources(self._wish.context, [bind.source], self._wish.ignore)
            digest = await anyio.to_thread.run_sync(copying.digest, source)
            return _Bound(bind, "", source, key("context", digest))
        image = await self._origin(expand(bind.origin, state.values), number)
        return _Bound(bind, image, [], key("image", image))

    async def _bind(self, one: _Bound, stack: AsyncExitStack) -> cri.Mount:
        """The mount, of a container that only has it: what a command writes there is lost with that."""
        container_id = await stack.enter_async_context(
            self._worker.container(Job(one.image or await self._scratch()))
        )
        root = await self._worker.root(container_id)
        path = one.bind.source
        if not one.image:
            # of the context a copy, without what .dockerignore leaves out
            path = "/bound" if one.sources[0].is_directory() else f"/bound/{one.sources[0].name}"
            await self._within(container_id, copying.Copy(one.sources, "/bound/").write)
        fd = _opened(root)
        try:
            with Place(fd).opened(path, os.O_PATH) as there:
                found = str(Path(f"/proc/self/fd/{there}").readlink())
        finally:
            os.close(fd)
        return cri.Mount(host_path=found, container_path=one.bind.target, readonly=not one.bind.writable)

    async def _origin(self, name: str, number: int) -> str:
        """The image that `from=` names: a stage before this one, or any."""
        other = self._stage(name, number)
        return await (self._built(other) if other is not None else self._image(name))

    async def _image(self, name: str, shown: Step | None = None) -> str:
        """An image by its name, pulled when it is not here."""
        try:
            return (await self._images.get(name)).id
        except NotFoundError:
            pass
        image = ""
        async for progress in self._images.pull(name, auth_of(name, "")):
            image = progress.image.id
            if shown:
                here = sum(layer.fetched_bytes for layer in progress.layers)
                shown.note(
                    f"{render.size(here)} of {render.size(sum(layer.size_bytes for layer in progress.layers))}"
                )
        return image

    async def _copy(self, state: State, step: Instruction, number: int, shown: Step) -> None:
        options = step.options(
            "from", "chown", "chmod", "link", *(["checksum"] if step.word == "ADD" else [])
        )
        *words, target = [expand(word, state.values) for word in step.words]
        if not words:
            step.refuse("want SOURCE… TARGET")
        into = target.endswith(("/", "/.")) or target == "."
        target = posixpath.normpath(posixpath.join(state.directory, target)).replace("//", "/")
        mode = options.get("chmod", [""])[-1]
        if mode and not re.fullmatch(r"[0-7]{3,4}", mode):
            step.refuse(f"--chmod={mode}: want an octal number, such as 0755")
        who = expand(options.get("chown", [""])[-1], state.values)
        checksum = expand(options.get("checksum", [""])[-1], state.values)
        if checksum and not (_CHECKSUM.fullmatch(checksum) and len(words) == 1 and _is_url(step, words[0])):
            step.refuse(f"--checksum={checksum}: want sha256:<64 hex digits>, and one URL")
        async with AsyncExitStack() as stack:
            place, ignore = await self._place(options.get("from", [""])[-1], state, number, stack)
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="slipway-add-"))

            def gather() -> list[copying.Source]:
                far = [word for word in words if _is_url(step, word)]
                fetched = [
                    fetching.fetch(url, Path(tempfile.mkdtemp(dir=directory)), checksum) for url in far
                ]
                return [*_sources(step, [w for w in words if w not in far], place, ignore), *fetched]

            found: list[copying.Source] = []
            if checksum:  # says what comes: nothing is fetched for what the cache has
                digest = key(fetching.name_of(words[0]), checksum)
            else:
                found = await anyio.to_thread.run_sync(gather)
                digest = await anyio.to_thread.run_sync(copying.digest, found)
            new = key(state.key, step.word, target, str(into), who, mode, digest)

            async def work(container_id: str) -> list[str]:
                what = found or await anyio.to_thread.run_sync(gather)

                def write(root: Place) -> None:
                    uid, gid = copying.owner(root, who) if who else (0, 0)
                    where = target + "/" if into and target != "/" else target
                    copy = copying.Copy(
                        what, where, uid, gid, int(mode, 8) if mode else None, unpack=step.word == "ADD"
                    )
                    copy.write(root)

                await self._within(container_id, write)
                return []

            await self._change(state, new, step.text, _plain, work, shown)

    async def _place(
        self, name: str, state: State, number: int, stack: AsyncExitStack
    ) -> tuple[Place, Ignore]:
        """Where COPY takes from for as long as a stack is open: the context, another stage, or an image."""
        if not name:
            return self._wish.context, self._wish.ignore
        image = await self._origin(expand(name, state.values), number)
        container_id = await stack.enter_async_context(self._worker.container(Job(image)))
        fd = _opened(await self._worker.root(container_id))
        stack.callback(os.close, fd)
        return Place(fd), copying.EVERYTHING

    async def _within(self, container_id: str, work: Callable[[Place], None]) -> None:
        fd = _opened(await self._worker.root(container_id))
        try:
            await anyio.to_thread.run_sync(work, Place(fd))
        finally:
            os.close(fd)

    async def _change(
        self,
        state: State,
        new: str,
        text: str,
        job: Callable[[AsyncExitStack], Awaitable[Job]],
        work: Callable[[str], Awaitable[list[str]]],
        shown: Step,
        changes: tuple[str, ...] = (),
    ) -> None:
        """Do what changes files, unless the cache has it; `work` returns what of it was only mounted on."""
        image = await self._cached(new)
        shown.cached = bool(image)
        if not image:
            await self._flush(state)
            async with self._room, AsyncExitStack() as stack:
                wanted = replace(await job(stack), image=state.image)
                container_id = await stack.enter_async_context(self._worker.container(wanted))
                ignore = await work(container_id)
                wish = pb.CommitRequest(
                    snapshot=container_id,
                    ignore=[*MADE, *ignore],
                    changes=changes,
                    created_by=text,
                )
                image = await self._commit(state.image, new, wish)
        state.image, state.key, state.pending = image, new, {}

    async def _cached(self, wanted: str) -> str:
        if not self._wish.use_cache:
            return ""
        try:
            return (await self._images.get(f"{CACHE}:{wanted}", used=True)).id
        except NotFoundError:
            return ""

    async def _flush(self, state: State) -> None:
        """Give the image the changes of the config that it has not yet."""
        if not state.pending:
            return
        image = await self._cached(state.key)
        if not image:
            try:
                image = await self._commit(
                    state.image, state.key, pb.CommitRequest(steps=list(state.pending))
                )
            except InvalidArgumentError as exc:
                for text, step in state.pending.items():
                    if repr(text[:200]) in exc.message:
                        _refuse(step, exc)
                raise
        state.image, state.pending = image, {}

    async def _commit(self, base: str, name: str, wish: pb.CommitRequest) -> str:
        wish.image, wish.name = base, f"{CACHE}:{name}"
        wish.created_ns = (self._wish.epoch_s or 0) * 10**9
        wish.clamp_times = self._wish.epoch_s is not None
        return (await self._images.commit(wish)).id


def _sources(step: Instruction, words: list[str], place: Place, ignore: Ignore) -> list[copying.Source]:
    documents = {doc.name: doc.content for doc in step.heredocs}
    files = [word for word in words if not word.startswith("<<")]
    return [
        *copying.sources(place, files, ignore),
        *(copying.with_content(name, content) for name, content in documents.items()),
    ]


def _is_url(step: Instruction, word: str) -> bool:
    return step.word == "ADD" and fetching.is_remote(word)


async def _plain(_: AsyncExitStack) -> Job:
    """A container that is not started."""
    return Job("")


def _script(step: Instruction) -> str:
    """A RUN in shell form as its shell reads it."""
    (line,) = step.words
    if len(step.heredocs) == 1 and _HEREDOC.fullmatch(line.strip()):
        return step.heredocs[0].content
    return line + "".join(f"\n{doc.content}{doc.name}" for doc in step.heredocs)


def _above(path: str) -> list[str]:
    """A path and all above it, which were made to mount on."""
    parts = path.strip("/").split("/")
    return ["/" + "/".join(parts[:count]) for count in range(1, len(parts) + 1)]


def _opened(path: str) -> int:
    return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def _refuse(step: Instruction, cause: SlipwayError | OSError) -> NoReturn:
    """The same error, with where it is."""
    if isinstance(cause, OSError):
        message = f"{step.where}: {step.word}: {cause.filename or ''}: {cause.strerror}"
        raise FailedPreconditionError(message) from cause
    if cause.message.startswith(f"{step.where}: ") or cause.message.startswith(
        step.where.rpartition(":")[0] + ":"
    ):
        raise cause
    raise type(cause)(f"{step.where}: {step.word}: {cause.message}") from cause
