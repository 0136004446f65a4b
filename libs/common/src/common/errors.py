"""The one tree of errors; common.rpc.status maps it to gRPC and back.

SlipwayError
├── InvalidArgumentError      a field of the request has a value that can never work
├── NotFoundError             the object is not there
├── AlreadyExistsError        another object has this key
├── FailedPreconditionError   the object is in a state that does not allow this
│   └── InvalidTransitionError
├── PermissionDeniedError     the peer may not do this
├── ResourceExhaustedError    disk, quota, rate or a bound is used up
├── AbortedError              a concurrent change won; try again
├── DeadlineExceededError     time ran out
├── UnavailableError          something needed is away; try again
├── DataLossError             bytes are not what their digest says
├── UnimplementedError        this is not offered
├── UnknownError              a kubelet reads the message's prefix (see docs/errors.md)
└── InternalError             a bug; whoever answers with it logs the traceback
"""

from typing import Self

from common.sys import disk

END_BYTES = 1024
"""What is kept of each end of a message: gRPC triples bytes, and drops a status of more than 8 KiB."""
_GAP = " ... "


def shortened(text: str) -> str:
    """A text that can be told: without its middle when it is long, as a value of a request or an image may be."""
    raw = text.encode(errors="replace")
    if len(raw) <= 2 * END_BYTES + len(_GAP):
        return raw.decode()
    return raw[:END_BYTES].decode(errors="ignore") + _GAP + raw[-END_BYTES:].decode(errors="ignore")


class SlipwayError(Exception):
    """Root of all errors that cross a service border.

    Args:
        message: one sentence that names the field or the thing, and the value; it is shortened here, so that
            no answer, event, record or log can be of any length.
        **fields: facts for the log.
    """

    def __init__(self, message: str, **fields: object) -> None:
        self.message = shortened(message)
        super().__init__(self.message)
        self.fields = fields

    @property
    def reason(self) -> str:
        """The class name, which travels as the `slipway-reason` trailer."""
        return type(self).__name__

    def bare(self) -> Self:
        """The same without traceback and cause, which hold all that was read when it was raised: for who keeps it."""
        return type(self)(self.message, **self.fields)


class InvalidArgumentError(SlipwayError):
    """A field of the request has a value that can never work."""


class NotFoundError(SlipwayError):
    """The object is not there."""


class AlreadyExistsError(SlipwayError):
    """Another object has this key."""


class FailedPreconditionError(SlipwayError):
    """The object is in a state that does not allow this."""


class InvalidTransitionError(FailedPreconditionError):
    """A state machine refused an event."""


class PermissionDeniedError(SlipwayError):
    """The peer may not do this."""


class ResourceExhaustedError(SlipwayError):
    """Disk, quota, rate or a bound is used up."""


class AbortedError(SlipwayError):
    """A concurrent change won; try again."""


class DeadlineExceededError(SlipwayError):
    """Time ran out."""


class UnavailableError(SlipwayError):
    """Something that is needed is away, or a disk fails; try again."""


class DataLossError(SlipwayError):
    """Bytes are not what their digest says."""


class UnimplementedError(SlipwayError):
    """This is not offered."""


class UnknownError(SlipwayError):
    """The message carries a prefix that a kubelet reads."""


class InternalError(SlipwayError):
    """A bug; whoever answers with it logs the traceback."""


def of_system(exc: OSError, doing: str, otherwise: type[SlipwayError] = InternalError) -> SlipwayError:
    """What an error of the operating system means to a caller: a disk that is full or fails, or else a bug.

    Args:
        exc: the error.
        doing: what failed, with which the sentence begins.
        otherwise: what it means when it is not the disk.
    """
    where = f" ({exc.filename})" if exc.filename else ""
    kind = otherwise
    if exc.errno in disk.FULL:
        kind = ResourceExhaustedError
    elif exc.errno in disk.FAILING:
        kind = UnavailableError
    return kind(f"{doing}: {exc.strerror or exc}{where}")


def _tree(cls: type[SlipwayError]) -> dict[str, type[SlipwayError]]:
    found = {cls.__name__: cls}
    for child in cls.__subclasses__():
        found |= _tree(child)
    return found


BY_REASON = _tree(SlipwayError)
"""Error classes by reason, for peers that carry the reason as text."""
