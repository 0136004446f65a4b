"""How a command ended, in the form that Kubernetes' clients read on the error channel."""

import json
from typing import Any

STATUS_SINCE = 4
"""Versions of remotecommand from this one on send a metav1.Status; older ones a sentence, or nothing."""


def of_exit(code: int, version: int) -> bytes:
    """The status of a command that ended with an exit code."""
    if code == 0:
        return _encode({"metadata": {}, "status": "Success"}) if version >= STATUS_SINCE else b""
    message = f"command terminated with non-zero exit code: {code}"
    if version < STATUS_SINCE:
        return message.encode()
    causes = [{"reason": "ExitCode", "message": str(code)}]
    return _failure(message, {"reason": "NonZeroExitCode", "details": {"causes": causes}})


def of_error(message: str, version: int) -> bytes:
    """The status of a command that could not be run, or was cut off."""
    if version < STATUS_SINCE:
        return message.encode()
    return _failure(message, {"reason": "InternalError", "code": 500})


def _failure(message: str, more: dict[str, Any]) -> bytes:
    return _encode({"metadata": {}, "status": "Failure", "message": message, **more})


def _encode(status: dict[str, Any]) -> bytes:
    return json.dumps(status).encode()
