"""The server of one layer: answers the kernel's requests on /dev/fuse until the layer is unmounted.

Two threads take requests and answer what is here; others wait for bytes that must come. The server may be killed at
any moment: its keeper (lazy/keeper.py) starts the next one on the same descriptors.
"""

import errno
import os
import queue
import sys
import threading
from collections.abc import Callable

from snapshotd.lazy import wire
from snapshotd.lazy.answers import Answers, AwayError
from snapshotd.lazy.slots import Slots

READERS, WAITERS = 2, 12
_STACK_BYTES = 512 << 10


class Server:
    """Serves one mount.

    Args:
        fuse: descriptor of /dev/fuse.
        slots: of requests.
        answers: what to say.
    """

    def __init__(self, fuse: int, slots: Slots, answers: Answers) -> None:
        self._fuse, self._slots, self._answers = fuse, slots, answers
        self._waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._over = threading.Event()
        self._unmounted = False

    def run(self) -> bool:
        """Until it is unmounted; False when something else ended it."""
        threading.stack_size(_STACK_BYTES)
        for number in range(WAITERS):
            _start(self._wait, f"wait-{number}")
        for slot, may in self._slots.left():
            if may:
                self._waiting.put(slot)
            else:
                self._reply(slot, wire.request(self._slots.request(slot)).unique, b"", errno.EIO)
        for number in range(READERS):
            _start(self._read, f"read-{number}")
        self._over.wait()
        return self._unmounted

    def _read(self) -> None:
        try:
            while True:
                slot = self._slots.take()
                if not self._take(slot):
                    return
                self._serve(slot, wait=False)
        finally:
            self._over.set()

    def _take(self, slot: int) -> bool:
        """Read a request into a slot; False when the mount is gone."""
        while True:
            try:
                os.readv(self._fuse, [self._slots.request(slot)])
            except OSError as exc:
                if exc.errno == errno.ENODEV:
                    self._unmounted = True
                    return False
                if exc.errno not in (errno.ENOENT, errno.EINTR, errno.EAGAIN):
                    raise
            else:
                return True

    def _wait(self) -> None:
        while True:
            self._serve(self._waiting.get(), wait=True)

    def _serve(self, slot: int, *, wait: bool) -> None:
        asked = wire.request(self._slots.request(slot))
        if asked.opcode in wire.NO_ANSWER:
            self._slots.free(slot)
            return
        try:
            content, error = self._answers.answer(asked, wait=wait), 0
        except AwayError:
            self._waiting.put(slot)
            return
        except OSError as exc:
            content, error = b"", exc.errno or errno.EIO
        except Exception:  # noqa: BLE001 - a request that cannot be read must still be answered
            content, error = b"", errno.EIO
        self._reply(slot, asked.unique, content, error)

    def _reply(self, slot: int, unique: int, content: bytes, error: int) -> None:
        try:
            os.writev(self._fuse, [wire.header(unique, len(content), error), content])
        except OSError as exc:
            # ENOENT: nobody waits any more, or a server that died had answered already
            if exc.errno not in (errno.ENOENT, errno.ENODEV):
                sys.stderr.write(f"lazy: answer to {unique}: {exc}\n")
        self._slots.free(slot)


def _start(work: Callable[[], None], name: str) -> None:
    threading.Thread(target=work, name=name, daemon=True).start()
