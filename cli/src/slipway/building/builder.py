"""Makes the stages of a Dockerfile, each step from the image that the step before it made, or from the cache."""

import json
import posixpath
from collections import defaultdict
from collections.abc import Mapping

import anyio

from common.clients.imaged import ImagedClient
from common.errors import InvalidArgumentError, SlipwayError
from slipway.building import config, copying, platform
from slipway.building.adding import add
from slipway.building.bases import Bases
from slipway.building.dockerfile import Instruction, Stage, triggers
from slipway.building.leases import Leases
from slipway.building.needs import needed, stage_of
from slipway.building.progress import Progress, Step
from slipway.building.refusal import refuse
from slipway.building.results import Done, Results, plain
from slipway.building.running import run
from slipway.building.site import Site
from slipway.building.state import State, Wish, key
from slipway.building.variables import expand
from slipway.building.worker import Worker
from slipway.connect import Node
from slipway.files import Place

_VERSION = "5"
"""Of the cache: what an earlier one made of the same words may be another."""


class Builder:
    """Builds stages on one node.

    Args:
        on: the node.
        images: its imaged.
        leases: hold the images until the build ends.
        worker: makes the containers.
        progress: told of each step.
        wish: what is wanted.
    """

    def __init__(
        self,
        on: Node,
        images: ImagedClient,
        leases: Leases,
        worker: Worker,
        progress: Progress,
        wish: Wish,
    ) -> None:
        self._images, self._progress, self._wish = images, progress, wish
        self._bases = Bases(images, leases, pull=wish.pull)
        self._results = Results(images, leases, worker, wish)
        self._site = Site(on, worker, wish, self._bases, self._results, self._origin)
        self._stages: list[Stage] = []
        self._done: dict[int, State] = {}
        self._globals: dict[str, str] = {}
        self._wanted = 0
        self._locks: defaultdict[int, anyio.Lock] = defaultdict(anyio.Lock)

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
        self._wanted = wanted
        async with anyio.create_task_group() as group:
            for number in sorted(needed(stages, wanted, self._globals)):
                group.start_soon(self._built, number)
        return self._done[wanted].image

    def _stage(self, name: str, before: int) -> int | None:
        return stage_of(self._stages, name, before)

    async def _built(self, number: int) -> State:
        """A stage at its end; who comes while it is built waits for it."""
        async with self._locks[number]:
            if number not in self._done:
                self._done[number] = await self._made(number)
            return self._done[number]

    async def _made(self, number: int) -> State:
        stage = self._stages[number]
        try:
            base = expand(stage.base, self._globals)
        except InvalidArgumentError as exc:
            refuse(stage.start, exc)
        state = await self._begin(stage, number, base)
        steps = [*state.triggers, *stage.steps]
        total = len(steps) + 1
        for count, step in enumerate(steps, 2):
            title = f"[{stage.name or f'stage-{number}'} {count}/{total}] {step.text}"
            with self._progress.step(title) as shown:
                try:
                    await self._step(state, step, number, shown)
                except (SlipwayError, OSError) as exc:
                    refuse(step, exc)
        if number == self._wanted and self._wish.labels:
            state.change(f"LABEL {config.quoted(self._wish.labels)}", stage.start)
        await self._results.flush(state)
        return state

    async def _begin(self, stage: Stage, number: int, base: str) -> State:
        for text in stage.start.options("platform").get("platform", []):
            try:
                platform.check(expand(text, self._globals))
            except InvalidArgumentError as exc:
                refuse(stage.start, exc)
        other, arguments = self._stage(base, number), {}
        if other is not None:
            below = await self._built(other)
            image, arguments = below.image, dict(below.arguments)
        else:
            title = f"[{stage.name or f'stage-{number}'} 1/{len(stage.steps) + 1}] FROM {base}"
            with self._progress.step(title) as shown:
                try:
                    image = await (
                        self._bases.scratch() if base == "scratch" else self._bases.named(base, shown)
                    )
                except (SlipwayError, OSError) as exc:
                    refuse(stage.start, exc)
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
            user=inner.get("User") or "",
            shell=inner.get("Shell") or ["/bin/sh", "-c"],
            arguments=arguments,
        )
        if inner.get("OnBuild"):
            # done here, and not again by whoever builds on this
            state.triggers = triggers(inner["OnBuild"], stage.start.where)
            state.change("ONBUILD []", stage.start)
        return state

    async def _step(self, state: State, step: Instruction, number: int, shown: Step) -> None:
        match step.word:
            case "ARG":
                state.arguments |= self._argument(step, state.values, self._globals)
            case "RUN":
                await run(self._site, state, step, number, shown)
            case "COPY" | "ADD":
                await add(self._site, state, step, number, shown)
            case "WORKDIR":
                await self._enter(state, step, shown)
            case _:
                self._configure(state, step)

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
        elif step.word == "USER":
            state.user = text.partition(" ")[2]
        elif step.word == "SHELL":
            if not step.exact:
                step.refuse('want JSON, such as ["/bin/bash", "-c"]')
            state.shell = list(step.words)
        state.change(text, step)

    async def _enter(self, state: State, step: Instruction, shown: Step) -> None:
        path = posixpath.join(state.directory, *(expand(word, state.values) for word in step.words))
        state.directory = posixpath.normpath(f"/{path.lstrip('/')}")
        change = f"WORKDIR {state.directory}"

        def make(root: Place) -> None:
            uid, gid = copying.owner(root, state.user) if state.user else (0, 0)
            copying.make_directories(root, state.directory, uid, gid)

        new = key(state.key, change)

        async def work(container_id: str) -> Done:
            await self._site.worker.within(container_id, make)
            return Done(new)

        await self._results.change(state, new, change, plain, work, shown, changes=(change,))

    async def _origin(self, name: str, number: int) -> str:
        """The image that `from=` names: a stage before this one, or any."""
        other = self._stage(name, number)
        return (await self._built(other)).image if other is not None else await self._bases.named(name)
