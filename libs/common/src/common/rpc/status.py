"""Errors to gRPC status and back: the only file that names grpc.StatusCode."""

import grpc

from common import errors

REASON_KEY = "slipway-reason"
"""Trailer with the name of the error class, finer than the code."""

_CODE: dict[type[errors.SlipwayError], grpc.StatusCode] = {
    errors.InvalidArgumentError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFoundError: grpc.StatusCode.NOT_FOUND,
    errors.AlreadyExistsError: grpc.StatusCode.ALREADY_EXISTS,
    errors.FailedPreconditionError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.PermissionDeniedError: grpc.StatusCode.PERMISSION_DENIED,
    errors.ResourceExhaustedError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.AbortedError: grpc.StatusCode.ABORTED,
    errors.DeadlineExceededError: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.UnavailableError: grpc.StatusCode.UNAVAILABLE,
    errors.DataLossError: grpc.StatusCode.DATA_LOSS,
    errors.UnimplementedError: grpc.StatusCode.UNIMPLEMENTED,
    errors.UnknownError: grpc.StatusCode.UNKNOWN,
    errors.InternalError: grpc.StatusCode.INTERNAL,
}
_CLASS = {code: cls for cls, code in _CODE.items()}


def code_of(error: errors.SlipwayError) -> grpc.StatusCode:
    """The status code of an error, by its class or the nearest parent that has one."""
    return next((_CODE[c] for c in type(error).__mro__ if c in _CODE), grpc.StatusCode.INTERNAL)


def from_rpc(rpc: grpc.aio.AioRpcError) -> errors.SlipwayError:
    """The error that the peer raised."""
    if _is_cut(rpc):
        return errors.UnavailableError("the service died over this call; ask again")
    trailers = {str(key): value for key, value in rpc.trailing_metadata() or ()}
    named = errors.BY_REASON.get(str(trailers.get(REASON_KEY, "")))
    if named is None and rpc.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return errors.DeadlineExceededError("no answer within the deadline of this call")
    cls = named or _CLASS.get(rpc.code(), errors.InternalError)
    return cls(rpc.details() or rpc.code().name.lower())


def _is_cut(rpc: grpc.aio.AioRpcError) -> bool:
    """GRPC's word for a connection that broke between the request and its answer."""
    return rpc.code() is grpc.StatusCode.UNKNOWN and rpc.details() == "Stream removed"


def error_code_name(error: errors.SlipwayError) -> str:
    """The status code's name, for logs."""
    return code_of(error).name
