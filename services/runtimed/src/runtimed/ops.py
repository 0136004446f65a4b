"""What goes on in runtimed, each joined by those who ask for the same: the kinds that `slipway ops` shows."""

from enum import StrEnum

from common.operations import Key


class Op(StrEnum):
    """A kind of operation, and what its object is."""

    SET_UP_SANDBOX = "sandbox"
    """Of a sandbox's key, as is RESTORE: it has no id before."""
    RESTORE = "restore"
    CHECKPOINT = "checkpoint"
    """Of a sandbox's id, as are the next three; a checkpoint of one container, too."""
    STOP_SANDBOX = "stop sandbox"
    REMOVE_SANDBOX = "remove sandbox"
    SHARE_PIDS = "share pids"
    CREATE = "create"
    """Of a container's key; all below of its id."""
    START = "start"
    STOP = "stop"
    PAUSE = "pause"
    RESUME = "resume"
    REMOVE = "remove"
    REAP = "reap"
    """The end of its shim."""
    ROUSE = "rouse"
    """Of the kernel's cgroups."""

    def of(self, name: str) -> Key:
        return Key(self.value, name)
