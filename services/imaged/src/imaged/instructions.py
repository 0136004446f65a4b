"""Instructions of a Dockerfile that change an image's config, as `docker commit --change` takes them. Pure."""

import json
import re
import shlex
from collections.abc import Callable
from typing import Any, NoReturn

from common.errors import InvalidArgumentError

_SHELL = ["/bin/sh", "-c"]
_OPTION = re.compile(r"--([a-z-]+)=(\S*)\s+")
_NUMBER = r"(\d{1,9}(?:\.\d{1,9})?)"
_DURATION = re.compile(rf"(?:{_NUMBER}h)?(?:{_NUMBER}m(?!s))?(?:{_NUMBER}s)?(?:{_NUMBER}ms)?")
_TIMES = {
    "interval": "Interval",
    "timeout": "Timeout",
    "start-period": "StartPeriod",
    "start-interval": "StartInterval",
}
_PORT = re.compile(r"\d{1,5}(-\d{1,5})?(/(tcp|udp|sctp))?")

Config = dict[str, Any]


def apply(config: Config, instruction: str) -> Config:
    """A config with one instruction applied; the given one stays as it is.

    Raises:
        InvalidArgumentError: it is malformed, or changes no config.
    """
    word, _, rest = instruction.strip().partition(" ")
    name, rest = word.upper(), rest.strip()
    if name not in _KNOWN:
        _refuse(instruction, f"known are {', '.join(_KNOWN)}")
    if not rest and name not in ("CMD", "ENTRYPOINT"):
        _refuse(instruction, "it says nothing")
    return config | _KNOWN[name](config, instruction, rest)


def _environment(config: Config, instruction: str, rest: str) -> Config:
    old = dict(entry.partition("=")[::2] for entry in config.get("Env") or [])
    return {"Env": [f"{name}={value}" for name, value in (old | _pairs(instruction, rest)).items()]}


def _labels(config: Config, instruction: str, rest: str) -> Config:
    return {"Labels": (config.get("Labels") or {}) | _pairs(instruction, rest)}


def _ports(config: Config, instruction: str, rest: str) -> Config:
    ports = rest.split()
    for port in ports:
        if not _PORT.fullmatch(port):
            _refuse(instruction, f"{port!r} is no port")
    named: Config = {port if "/" in port else f"{port}/tcp": {} for port in ports}
    return {"ExposedPorts": (config.get("ExposedPorts") or {}) | named}


def _volumes(config: Config, instruction: str, rest: str) -> Config:
    places: Config = {place: {} for place in _list(instruction, rest) or _words(instruction, rest)}
    return {"Volumes": (config.get("Volumes") or {}) | places}


def _directory(config: Config, _: str, rest: str) -> Config:
    old = str(config.get("WorkingDir") or "/").rstrip("/")
    return {"WorkingDir": rest if rest.startswith("/") else f"{old}/{rest}"}


def _command(config: Config, instruction: str, rest: str) -> list[str]:
    found = _list(instruction, rest)
    if found is not None:
        return found
    return [*(config.get("Shell") or _SHELL), rest] if rest else []


def _shell(_: Config, instruction: str, rest: str) -> Config:
    found = _list(instruction, rest)
    if not found:
        _refuse(instruction, "want a JSON list of strings")
    return {"Shell": found}


def _health(_: Config, instruction: str, rest: str) -> Config:
    check: Config = {}
    while option := _OPTION.match(rest):
        name, value = option[1], option[2]
        rest = rest[option.end() :]
        if name == "retries" and value.isdecimal() and len(value) < 5:
            check["Retries"] = int(value)
        elif name in _TIMES and value and (match := _DURATION.fullmatch(value)):
            check[_TIMES[name]] = _nanoseconds(match)
        else:
            _refuse(instruction, f"--{name}={value}: want {', '.join(_TIMES)} as 30s, or retries as 3")
    word, test = rest.partition(" ")[::2]
    if word.upper() == "NONE" and not check and not test:
        return {"Healthcheck": {"Test": ["NONE"]}}
    if word.upper() != "CMD" or not test.strip():
        _refuse(instruction, "want NONE, or options and CMD with a command")
    exact = _list(instruction, test.strip())
    told = ["CMD", *exact] if exact is not None else ["CMD-SHELL", test.strip()]
    return {"Healthcheck": {"Test": told} | check}


def _trigger(config: Config, instruction: str, rest: str) -> Config:
    """One more; an empty list takes all away, as a build does that has done them."""
    if _list(instruction, rest) == []:
        return {"OnBuild": []}
    return {"OnBuild": [*(config.get("OnBuild") or []), rest]}


def _nanoseconds(match: re.Match[str]) -> int:
    hours, minutes, seconds, thousandths = (float(text or 0) for text in match.groups())
    return int((hours * 3600 + minutes * 60 + seconds) * 10**9 + thousandths * 10**6)


def _list(instruction: str, rest: str) -> list[str] | None:
    """A JSON list of strings; None when it is none, as the shell form."""
    if not rest.startswith("["):
        return None
    try:
        found = json.loads(rest)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, list) or not all(isinstance(word, str) for word in found):
        _refuse(instruction, "want a JSON list of strings")
    return found


def _pairs(instruction: str, rest: str) -> dict[str, str]:
    words = _words(instruction, rest)
    if "=" not in words[0]:
        # the old form: a name, and all that follows
        name, _, value = rest.partition(" ")
        return {name: value.strip()}
    pairs = [word.partition("=") for word in words]
    for name, equals, _ in pairs:
        if not name or not equals:
            _refuse(instruction, f"{name!r} has no value")
    return {name: value for name, _, value in pairs}


def _words(instruction: str, rest: str) -> list[str]:
    try:
        return shlex.split(rest)
    except ValueError as exc:
        _refuse(instruction, str(exc))


def _refuse(instruction: str, why: str) -> NoReturn:
    raise InvalidArgumentError(f"change {instruction[:200]!r}: {why}")


_KNOWN: dict[str, Callable[[Config, str, str], Config]] = {
    "CMD": lambda config, instruction, rest: {"Cmd": _command(config, instruction, rest)},
    "ENTRYPOINT": lambda config, instruction, rest: {"Entrypoint": _command(config, instruction, rest)},
    "ENV": _environment,
    "EXPOSE": _ports,
    "HEALTHCHECK": _health,
    "LABEL": _labels,
    "ONBUILD": _trigger,
    "SHELL": _shell,
    "STOPSIGNAL": lambda _, __, rest: {"StopSignal": rest},
    "USER": lambda _, __, rest: {"User": rest},
    "VOLUME": _volumes,
    "WORKDIR": _directory,
}
