"""The process of a server: reads the table of contents where it can do no harm, tells how it is, and serves."""

import errno
import os
import resource
import sys
from pathlib import Path

import msgspec

from common.sys import linux
from snapshotd.diff.confine import bound, restrict
from snapshotd.diff.syscalls import SERVE, compiled
from snapshotd.diff.whiteout import BadEntryError
from snapshotd.lazy import keeper, member, toc
from snapshotd.lazy.answers import Answers
from snapshotd.lazy.chunks import Chunks
from snapshotd.lazy.job import Job, Verdict
from snapshotd.lazy.server import Server
from snapshotd.lazy.slots import Slots
from snapshotd.lazy.source import ImagedSource
from snapshotd.lazy.tree import Tree

MEMORY_BYTES = 1 << 30
"""Bound on the address space, whatever a table of contents asks for; stacks of threads are a part of it."""
_EXTRA_BYTES = 1 << 20
"""Of a table that does not compress, beyond its bound."""


def main() -> None:
    """Serve the job of the last argument on the keeper's descriptors; for the exit status see the keeper's."""
    job = msgspec.json.decode(sys.argv[-1], type=Job)
    directory, name = os.path.split(job.socket)
    try:
        _enter(directory)
        tree = _tree(job)
    except (BadEntryError, MemoryError) as exc:
        _tell(Verdict(error=str(exc) or "its table of contents takes too much memory"))
        sys.exit(keeper.REFUSED)
    except OSError as exc:
        sys.stderr.write(f"lazy: {job.digest}: {exc}\n")
        sys.exit(keeper.UNREADY)
    implied = [os.fsdecode(path) for path in tree.implied]
    _tell(
        Verdict(
            implied=implied, size_bytes=tree.size_bytes, inodes=len(tree), prefetch_bytes=tree.prefetch_bytes
        )
    )
    tree.forget_paths()
    source = ImagedSource(Path("/", name), job.digest, job.timeout_s)
    server = Server(
        keeper.FUSE,
        Slots(keeper.SLOTS),
        Answers(tree, Chunks(keeper.BLOB, source, member.of(job.media_type))),
    )
    # at once: threads wait for bytes, and would need libraries that are not in this root to end
    os._exit(0 if server.run() else 1)


def _enter(root: str) -> None:
    """Make `root` all that can be named, and keep no capability."""
    program = compiled(SERVE)
    # no mount namespace: one of its own would keep what is unmounted elsewhere
    linux.unshare(linux.CLONE_NEWNET | linux.CLONE_NEWIPC)
    os.chroot(root)
    os.chdir("/")
    bound(())
    restrict(
        {resource.RLIMIT_AS: MEMORY_BYTES, resource.RLIMIT_FSIZE: 0, resource.RLIMIT_CORE: 0}, (), program
    )


def _tree(job: Job) -> Tree:
    bounds = toc.Bounds(job.max_entries, job.max_bytes)
    length = job.toc_bytes or job.size - job.toc_offset
    if not 0 < length <= min(bounds.max_toc_bytes + _EXTRA_BYTES, job.size - job.toc_offset):
        raise toc.BadTocError(f"its table of contents has {length} bytes, compressed")
    piece = os.pread(keeper.BLOB, length, job.toc_offset)
    entries = toc.read(piece, job.toc_digest, bounds, member.of(job.media_type))
    return Tree(entries, job.toc_offset, bounds)


def _tell(verdict: Verdict) -> None:
    try:
        _write(msgspec.json.encode(verdict) + b"\n")
    except OSError as exc:
        if exc.errno != errno.EPIPE:  # whoever asked is gone
            raise


def _write(line: bytes) -> None:
    while line:
        line = line[os.write(keeper.VERDICT, line) :]
    os.close(keeper.VERDICT)
