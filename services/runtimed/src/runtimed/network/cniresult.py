"""What CNI plugins answer, of any version of the specification: read as what it should be, or refused."""

import ipaddress
from typing import Any

import msgspec

from common.errors import FailedPreconditionError, SlipwayError, UnavailableError

MAX_LEVELS = 64
"""How deep an answer may nest: it is encoded again, for the next plugin, the cache and the record."""
MAX_REASON_CHARS = 2000
# Error codes of the CNI specification that tell of the configuration and not of the moment.
_CONF_CODES = frozenset({1, 2, 4, 6, 7})


class CniResult(msgspec.Struct, frozen=True):
    """What a plugin's ADD made.

    Attributes:
        ips: the sandbox's addresses without prefix length, IPv4 first.
        raw: the whole answer, which the next plugin of the chain is given.
    """

    ips: list[str]
    raw: dict[str, Any]


class _Address(msgspec.Struct):
    address: str
    interface: int | None = None


class _Interface(msgspec.Struct):
    name: str = ""
    sandbox: str | None = None


class _Family(msgspec.Struct):
    """The address of one family, as versions before 0.3.0 have it."""

    ip: str


class _Added(msgspec.Struct):
    ips: list[_Address] | None = None
    interfaces: list[_Interface] | None = None
    ip4: _Family | None = None
    ip6: _Family | None = None


class _Refusal(msgspec.Struct):
    msg: str
    code: int = 0
    details: str = ""


def parse(kind: str, answer: bytes, interface: str) -> CniResult:
    """The answer of a plugin's ADD.

    Args:
        kind: the plugin's name.
        answer: what it wrote.
        interface: the sandbox's, whose addresses are wanted.

    Raises:
        UnavailableError: it is no result, with the plugin and what is wrong.
    """
    try:
        raw = msgspec.json.decode(answer, type=dict[str, Any])
        if _nests_deeper(raw, MAX_LEVELS):
            raise ValueError(f"nests deeper than {MAX_LEVELS} levels")
        ips = _addresses(msgspec.convert(raw, _Added), interface)
    except (ValueError, RecursionError) as error:
        raise UnavailableError(
            f"cni plugin {kind!r}: ADD answered no result: {error}: {answer[:200]!r}"
        ) from error
    return CniResult(ips, raw)


def refusal(kind: str, verb: str, code: int, out: bytes, err: bytes) -> SlipwayError:
    """Why a plugin failed: what it says in the specification's form, else the end of what it wrote."""
    try:
        said = msgspec.json.decode(out, type=_Refusal)
    except (ValueError, RecursionError):
        said = _Refusal((err or out)[-500:].decode(errors="replace").strip() or f"exit code {code}")
    text = f"{said.msg}: {said.details}" if said.details else said.msg
    message = f"cni plugin {kind!r}: {verb} failed: {text[:MAX_REASON_CHARS]}"
    return FailedPreconditionError(message) if said.code in _CONF_CODES else UnavailableError(message)


def _addresses(added: _Added, interface: str) -> list[str]:
    texts = [family.ip for family in (added.ip4, added.ip6) if family]
    interfaces = added.interfaces or []
    named = {index for index, found in enumerate(interfaces) if found.name == interface}
    # the name tells, as for other runtimes: not every plugin says where; but one that says so is not the node's
    own = {index for index in named if interfaces[index].sandbox} or named
    others = set(range(len(interfaces))) - own
    texts += [item.address for item in added.ips or [] if item.interface not in others]
    addresses = [ipaddress.ip_interface(text).ip for text in texts]
    return [str(address) for address in sorted(addresses, key=lambda address: address.version)]


def _nests_deeper(value: Any, levels: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels < 0 or any(_nests_deeper(item, levels - 1) for item in inner)
