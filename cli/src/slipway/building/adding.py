"""COPY and ADD: files of the context, of stages, of images and of URLs, written into what is there so far."""

import posixpath
import re
import tempfile
import uuid
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio.to_thread

from slipway.building import copying, fetching
from slipway.building.dockerfile import Instruction
from slipway.building.heredocs import document
from slipway.building.ignore import Ignore
from slipway.building.progress import Step
from slipway.building.results import Done, plain
from slipway.building.site import Site
from slipway.building.state import State, key
from slipway.building.variables import expand
from slipway.building.worker import Job
from slipway.files import Place

_EXPANDED = ("from", "chown", "checksum")
"""Options that may have variables."""
_CHECKSUM = re.compile(r"sha256:[a-f0-9]{64}")


@dataclass(frozen=True, slots=True)
class _Wish:
    """What an instruction asks for, its variables expanded."""

    words: list[str]
    """Sources that are named; those with their content in the Dockerfile are `documents`."""
    documents: list[copying.Source]
    target: str
    into: bool
    """The target is a directory."""
    origin: str | None
    """What COPY takes from, by its name; None for the context."""
    mode: str
    who: str
    checksum: str
    unpack: bool

    @property
    def urls(self) -> list[str]:
        return [word for word in self.words if self.unpack and fetching.is_remote(word)]

    def gathered(self, place: Place, ignore: Ignore, directory: str) -> list[copying.Source]:
        """The sources; those of URLs are fetched below `directory`. Blocking."""
        urls = self.urls
        fetched = [fetching.fetch(url, Path(tempfile.mkdtemp(dir=directory)), self.checksum) for url in urls]
        near = copying.sources(place, [word for word in self.words if word not in urls], ignore)
        return [*near, *self.documents, *fetched]

    def write(self, found: list[copying.Source], root: Place) -> str:
        """Copy the sources; returns the digest of what was read. Blocking."""
        uid, gid = copying.owner(root, self.who) if self.who else (0, 0)
        where = self.target + "/" if self.into and self.target != "/" else self.target
        mode = int(self.mode, 8) if self.mode else None
        return copying.Copy(found, where, uid, gid, mode, unpack=self.unpack).write(root)


async def add(site: Site, state: State, step: Instruction, number: int, shown: Step) -> None:
    """Have the image with the files in `state`.

    Raises:
        InvalidArgumentError: an option is wrong, or a source is not there.
        OSError: with the path.
    """
    wish = _wish(step, state)
    async with AsyncExitStack() as stack:
        place, ignore = await _place(site, wish.origin, number, stack)
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="slipway-add-"))
        gather = partial(wish.gathered, place, ignore, directory)
        found: list[copying.Source] = []
        name = partial(key, state.key, step.word, wish.target, str(wish.into), wish.who, wish.mode)
        if wish.checksum:  # says what comes: nothing is fetched for what the cache has
            asked = key(fetching.name_of(wish.words[0]), wish.checksum)
        else:
            found = await anyio.to_thread.run_sync(gather)
            asked = await anyio.to_thread.run_sync(copying.digest, found)

        async def work(container_id: str) -> Done:
            what = found or await anyio.to_thread.run_sync(gather)
            copied = await site.worker.within(container_id, partial(wish.write, what))
            if wish.checksum:
                copied = asked
            elif wish.unpack and copied != asked:
                copied = uuid.uuid4().hex  # an archive may have been unpacked before it changed, or after
            return Done(name(copied))

        await site.results.change(state, name(asked), step.text, plain, work, shown)


def _wish(step: Instruction, state: State) -> _Wish:
    is_add = step.word == "ADD"
    given = step.options("from", "chown", "chmod", "link", *(["checksum"] if is_add else []))
    options = {name: expand(values[-1], state.values) for name, values in given.items() if name in _EXPANDED}
    documents = _documents(step, state)
    *words, target = [expand(word, state.values) for word in step.words if word not in documents]
    if not words and not documents:
        step.refuse("want SOURCE… TARGET")
    mode = given.get("chmod", [""])[-1]
    if mode and not re.fullmatch(r"[0-7]{3,4}", mode):
        step.refuse(f"--chmod={mode}: want an octal number, such as 0755")
    wish = _Wish(
        words=words,
        documents=list(documents.values()),
        target=posixpath.normpath(posixpath.join(state.directory, target)).replace("//", "/"),
        into=target.endswith(("/", "/.")) or target == ".",
        origin=options["from"] if given.get("from", [""])[-1] else None,
        mode=mode,
        who=options.get("chown", ""),
        checksum=options.get("checksum", ""),
        unpack=is_add,
    )
    one = len(words) == 1 and wish.urls == words and not documents
    if wish.checksum and not (_CHECKSUM.fullmatch(wish.checksum) and one):
        step.refuse(f"--checksum={wish.checksum}: want sha256:<64 hex digits>, and one URL")
    return wish


async def _place(site: Site, name: str | None, number: int, stack: AsyncExitStack) -> tuple[Place, Ignore]:
    """Where COPY takes from for as long as a stack is open: the context, another stage, or an image."""
    if name is None:
        return site.wish.context, site.wish.ignore
    image = await site.origin(name, number)
    container_id = await stack.enter_async_context(site.worker.container(Job(image)))
    return await stack.enter_async_context(site.worker.place(container_id)), copying.EVERYTHING


def _documents(step: Instruction, state: State) -> dict[str, copying.Source]:
    """The heredocs among the sources, by their words."""
    found = {word: doc for word in step.words if (doc := document(step, word))}
    if step.words and step.words[-1] in found:
        step.refuse(f"{step.words[-1]!r}: a heredoc is no target")
    return {word: copying.with_content(doc.name, doc.expanded(state.values)) for word, doc in found.items()}
