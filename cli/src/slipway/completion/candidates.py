"""What may come next on a command line, by the parser and by what is on the node."""

import argparse
import asyncio
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from common.buildcache import REPOSITORY, given
from common.errors import SlipwayError
from slipway.completion.values import values
from slipway.connect import node, runtimed
from slipway.parser import build
from slipway.words.node import SERVICES

WITHIN_S = 2.0
"""A person waits for the answer."""
_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@:/+-]*")
"""Names that a shell takes as they are: others could be commands to it, and are not offered."""
Candidates = list[tuple[str, str]]
"""Words, and what each is."""

SHORT_ID = 12
_RUNNING = {"exec", "attach", "stop", "pause", "kill", "top", "restart"}
_ENDED = {"start"}
_PAUSED = {"unpause"}


def candidates(words: Sequence[str], run_dir: str) -> Candidates:
    """What the last of the words may become; nothing when only a file can be meant."""
    *before, last = words or [""]
    place = _Place(build(before))
    for word in before:
        place.take(word)
    found = place.offers(last, place.run_dir or run_dir)
    return [(word, text) for word, text in found if word.startswith(last)]


class _Place:
    """Where we are on the line."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self._parser = parser
        self._verb = ""
        self._taken = 0
        self._pending: argparse.Action | None = None
        self.run_dir = ""

    def take(self, word: str) -> None:
        """Go on after one whole word."""
        if self._pending is not None:
            if self._pending.dest == "run_dir":
                self.run_dir = word
            self._pending = None
        elif word.startswith("-") and len(word) > 1 and not self._in_command():
            option, joint, _ = word.partition("=")
            action = self._parser._option_string_actions.get(option)  # noqa: SLF001 - argparse tells it in no public way
            if action is not None and action.nargs != 0 and not joint:
                self._pending = action
        elif word in subcommands(self._parser):
            self._parser = subcommands(self._parser)[word]
            self._verb = word
            self._taken = 0
        else:
            self._taken += 1

    def offers(self, last: str, run_dir: str) -> Candidates:
        """What may stand here."""
        if self._pending is not None:
            names = self._pending.option_strings
            known = [word for name in names for word in values(self._verb, name)]
            return [(str(choice), "") for choice in self._pending.choices or known]
        if last.startswith("-") and not self._in_command():
            return options(self._parser)
        found = [(name, verb.description or "") for name, verb in subcommands(self._parser).items()]
        action = self._positional()
        if action is None or action.nargs == argparse.REMAINDER:
            return found
        if action.choices:
            return [*found, *((str(choice), "") for choice in action.choices)]
        return [*found, *self._live(action.dest, run_dir, last)]

    def _in_command(self) -> bool:
        action = self._positional()
        return action is not None and action.nargs == argparse.REMAINDER

    def _positional(self) -> argparse.Action | None:
        own = [a for a in positionals(self._parser) if not isinstance(a, argparse._SubParsersAction)]  # noqa: SLF001 - as above
        if self._taken < len(own):
            return own[self._taken]
        return own[-1] if own and own[-1].nargs in ("+", "*", argparse.REMAINDER) else None

    def _live(self, dest: str, run_dir: str, last: str) -> Candidates:
        where = str(self._parser.get_default("run") or "")
        if where == "cp:cp":
            return [(f"{name}:", text) for name, text in _ask(_containers(run_dir, _any))]
        if dest == "container":
            return _ask(_containers(run_dir, _wanted(self._verb), last))
        if dest == "pod":
            return _ask(_pods(run_dir, last))
        if dest == "service":
            return [(name, "") for name in SERVICES]
        if dest in ("reference", "image", "source"):
            return _ask(_images(run_dir, last))
        return []


def subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The commands below a parser that are for people."""
    for action in positionals(parser):
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 - as above
            return {name: verb for name, verb in action.choices.items() if not name.startswith("_")}
    return {}


def positionals(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """The arguments of a parser that are no options."""
    return [action for action in parser._actions if not action.option_strings]  # noqa: SLF001 - as above


def options(parser: argparse.ArgumentParser) -> Candidates:
    """Long options, and short ones that have no long name."""
    found = []
    for action in parser._actions:  # noqa: SLF001 - as above
        text = (action.help or "") % {"default": action.default} if action.help else ""
        long = [word for word in action.option_strings if word.startswith("--")]
        found += [(word, text) for word in long or action.option_strings]
    return found


def _any(_entry: Any) -> bool:
    return True


def _wanted(verb: str) -> Callable[[Any], bool]:
    from common.api.cri.v1 import api_pb2 as cri

    if verb in _RUNNING:
        return lambda entry: bool(entry.container.state == cri.CONTAINER_RUNNING)
    if verb in _ENDED:
        return lambda entry: bool(entry.container.state != cri.CONTAINER_RUNNING)
    return (lambda entry: bool(entry.paused)) if verb in _PAUSED else _any


def _ask(question: Any) -> Candidates:
    """What a node answers; nothing when it does not."""

    async def within() -> Candidates:
        async with asyncio.timeout(WITHIN_S):
            found: Candidates = await question
        return found

    try:
        return _safe(asyncio.run(within()))
    except (SlipwayError, TimeoutError):
        return []


def _safe(found: Iterable[tuple[str, str]]) -> Candidates:
    return sorted((word, text) for word, text in found if _SAFE.fullmatch(word))


async def _containers(run_dir: str, wanted: Callable[[Any], bool], last: str = "") -> Candidates:
    from common.api.runtime.v1 import runtime_pb2 as pb
    from slipway.commands.lists import state

    async with runtimed(run_dir) as backend:
        found = (await backend.Overview(pb.OverviewRequest())).containers
    return [
        (
            _called(entry.container, last),
            f"{state(entry)}, {entry.container.image.user_specified_image}",
        )
        for entry in found
        if wanted(entry)
    ]


def _called(item: Any, last: str) -> str:
    """The name, or a short id for somebody who has begun to type one."""
    name, short = str(item.metadata.name), str(item.id)[:SHORT_ID]
    return short if last and short.startswith(last) and not name.startswith(last) else name


async def _pods(run_dir: str, last: str) -> Candidates:
    async with node(run_dir) as on:
        found = await on.pods()
    return [(_called(pod, last), f"pod in {pod.metadata.namespace}") for pod in found]


async def _images(run_dir: str, last: str) -> Candidates:
    """Names of images; those of builds for who has begun to type one."""
    from common.api.cri.v1 import api_pb2 as cri

    async with node(run_dir) as on:
        found = (await on.images.ListImages(cri.ListImagesRequest())).images
    named = [(tag, image.id.partition(":")[2][:12]) for image in found for tag in image.repo_tags]
    return named if last.startswith(REPOSITORY) else [pair for pair in named if given(pair[:1])]
