"""Docker's exit codes for commands that could not be run."""

from common.errors import SlipwayError

DAEMON = 125
NOT_EXECUTABLE = 126
NOT_FOUND = 127
INTERRUPTED = 130
_PROGRAM = ("executable", "exec: ", "exec user", "failed to load")
"""How OCI runtimes speak of the program; other paths are missing or forbidden too, a mount's for one."""
_MISSING = ("not found", "no such file or directory")
_FORBIDDEN = ("permission denied", "operation not permitted", "exec format error", "is a directory")


def of_start(error: SlipwayError) -> int:
    """The code for a container or an exec that an OCI runtime refused to start; by its words, it has no codes."""
    text = error.message.lower()
    if not any(word in text for word in _PROGRAM):
        return DAEMON
    if any(word in text for word in _FORBIDDEN):
        return NOT_EXECUTABLE
    return NOT_FOUND if any(word in text for word in _MISSING) else DAEMON
