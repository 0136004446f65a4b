"""What a container may use at most, from the options of `run` and `update`."""

import re
from argparse import Namespace

from common.api.cri.v1 import api_pb2 as cri
from common.errors import InvalidArgumentError

_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_CPU_PERIOD_US = 100_000
_MAX_CPUS = 8192
_MAX_BYTES = 2**63 - 1
_ULIMIT = re.compile(r"([a-z]+)=(-1|\d{1,18}|unlimited)(?::(-1|\d{1,18}|unlimited))?")


def limits(resources: cri.LinuxContainerResources, options: Namespace) -> None:
    """Set what is given; what is not stays as it is.

    Raises:
        InvalidArgumentError: a value that can never work.
    """
    if options.memory:
        resources.memory_limit_in_bytes = size_bytes("--memory", options.memory)
    if options.memory_swap:
        unlimited = options.memory_swap == "-1"
        swap = -1 if unlimited else size_bytes("--memory-swap", options.memory_swap)
        resources.memory_swap_limit_in_bytes = swap
    if not 0 <= options.cpus <= _MAX_CPUS:
        message = f"--cpus {options.cpus:g}: want a number of processors, such as 1.5; 0 is no limit"
        raise InvalidArgumentError(message)
    if options.cpus:
        resources.cpu_period = _CPU_PERIOD_US
        resources.cpu_quota = int(options.cpus * _CPU_PERIOD_US)
    if options.cpu_shares < 0:
        message = f"--cpu-shares {options.cpu_shares}: want a weight from 2 to 262144"
        raise InvalidArgumentError(message)
    resources.cpu_shares = options.cpu_shares
    resources.cpuset_cpus = options.cpuset_cpus
    resources.cpuset_mems = options.cpuset_mems
    if options.pids_limit is not None:
        if options.pids_limit < -1 or options.pids_limit == 0:
            message = f"--pids-limit {options.pids_limit}: want a number above 0; -1 is no limit"
            raise InvalidArgumentError(message)
        resources.unified["pids.max"] = "max" if options.pids_limit < 0 else str(options.pids_limit)


def ulimit(text: str) -> tuple[str, int, int]:
    """Name, soft and hard limit of `NAME=SOFT[:HARD]`; -1 is none.

    Raises:
        InvalidArgumentError: it is no such thing; names are the node's to know.
    """
    match = _ULIMIT.fullmatch(text)
    if not match:
        message = f"--ulimit {text!r}: want NAME=SOFT[:HARD], such as nofile=1024:4096; -1 is no limit"
        raise InvalidArgumentError(message)
    soft = _count(match[2])
    return match[1], soft, _count(match[3]) if match[3] else soft


def _count(text: str) -> int:
    return -1 if text == "unlimited" else int(text)


def size_bytes(option: str, text: str) -> int:
    """A size such as 256m.

    Raises:
        InvalidArgumentError: it is none.
    """
    match = re.fullmatch(r"([0-9]{1,19})([bkmg]?)", text.lower())
    count = int(match[1]) * _UNITS[match[2]] if match else 0
    if not 0 < count <= _MAX_BYTES:
        message = f"{option} {text!r}: want a number above 0 and b, k, m or g, such as 256m"
        raise InvalidArgumentError(message)
    return count
