"""COPY and ADD: files of the context, of stages, of images and of URLs, written into what is there so far."""

import posixpath
import re
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

import anyio.to_thread

from slipway.building import copying, fetching
from slipway.building.dockerfile import Instruction
from slipway.building.heredocs import document
from slipway.building.ignore import Ignore
from slipway.building.progress import Step
from slipway.building.results import plain
from slipway.building.site import Site
from slipway.building.state import State, key
from slipway.building.variables import expand
from slipway.building.worker import Job
from slipway.files import Place

_CHECKSUM = re.compile(r"sha256:[a-f0-9]{64}")


async def add(site: Site, state: State, step: Instruction, number: int, shown: Step) -> None:
    """Have the image with the files in `state`.

    Raises:
        InvalidArgumentError: an option is wrong, or a source is not there.
        OSError: with the path.
    """
    options = step.options("from", "chown", "chmod", "link", *(["checksum"] if step.word == "ADD" else []))
    documents = _documents(step, state)
    *words, target = [expand(word, state.values) for word in step.words if word not in documents]
    if not words and not documents:
        step.refuse("want SOURCE… TARGET")
    into = target.endswith(("/", "/.")) or target == "."
    target = posixpath.normpath(posixpath.join(state.directory, target)).replace("//", "/")
    mode = options.get("chmod", [""])[-1]
    if mode and not re.fullmatch(r"[0-7]{3,4}", mode):
        step.refuse(f"--chmod={mode}: want an octal number, such as 0755")
    who = expand(options.get("chown", [""])[-1], state.values)
    checksum = expand(options.get("checksum", [""])[-1], state.values)
    one = len(words) == 1 and not documents and _is_url(step, words[0])
    if checksum and not (_CHECKSUM.fullmatch(checksum) and one):
        step.refuse(f"--checksum={checksum}: want sha256:<64 hex digits>, and one URL")
    async with AsyncExitStack() as stack:
        place, ignore = await _place(site, options.get("from", [""])[-1], state, number, stack)
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="slipway-add-"))

        def gather() -> list[copying.Source]:
            far = [word for word in words if _is_url(step, word)]
            fetched = [fetching.fetch(url, Path(tempfile.mkdtemp(dir=directory)), checksum) for url in far]
            near = copying.sources(place, [word for word in words if word not in far], ignore)
            return [*near, *documents.values(), *fetched]

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

            await site.worker.within(container_id, write)
            return []

        await site.results.change(state, new, step.text, plain, work, shown)


async def _place(
    site: Site, name: str, state: State, number: int, stack: AsyncExitStack
) -> tuple[Place, Ignore]:
    """Where COPY takes from for as long as a stack is open: the context, another stage, or an image."""
    if not name:
        return site.wish.context, site.wish.ignore
    image = await site.origin(expand(name, state.values), number)
    container_id = await stack.enter_async_context(site.worker.container(Job(image)))
    return await stack.enter_async_context(site.worker.place(container_id)), copying.EVERYTHING


def _documents(step: Instruction, state: State) -> dict[str, copying.Source]:
    """The heredocs among the sources, by their words."""
    found = {word: doc for word in step.words if (doc := document(step, word))}
    if step.words and step.words[-1] in found:
        step.refuse(f"{step.words[-1]!r}: a heredoc is no target")
    return {word: copying.with_content(doc.name, doc.expanded(state.values)) for word, doc in found.items()}


def _is_url(step: Instruction, word: str) -> bool:
    return step.word == "ADD" and fetching.is_remote(word)
