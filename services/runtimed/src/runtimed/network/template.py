"""The template of a CNI configuration, filled with the pod ranges that a kubelet tells.

The language is the part of Go's text/template in which such templates are written: `{{.PodCIDR}}`, `{{$name}}`,
`{{range $i, $x := .PodCIDRRanges}}`, `{{if $i}}`, `{{else}}`, `{{end}}`, and `{{-` and `-}}` to trim. Names are PodCIDR
(the first range), PodCIDRRanges, and Routes (the default route of each address family).
"""

import ipaddress
import json
import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from common import cniconf
from common.errors import FailedPreconditionError, InvalidArgumentError

_TAG = re.compile(r"\{\{(?:- )?\s*(.*?)\s*(?: -)?\}\}", re.DOTALL)
_TRIM = re.compile(r"\s+(?=\{\{- )|(?<= -\}\})\s+")
_RANGE = re.compile(r"range\s+(?:(?:(\$\w+)\s*,\s*)?(\$\w+)\s*:=\s*)?([.$]\w+)")
_IF = re.compile(r"if\s+([.$]\w*)")
_VALUE = re.compile(r"[.$]\w*")


def ranges(pod_cidr: str) -> list[str]:
    """The ranges of a comma-separated list.

    Raises:
        InvalidArgumentError: one is none.
    """
    try:
        return [str(ipaddress.ip_network(part.strip())) for part in pod_cidr.split(",")]
    except ValueError as exc:
        raise InvalidArgumentError(f"runtime_config.network_config.pod_cidr: {pod_cidr!r}: {exc}") from exc


def conflist(text: str, pods: list[str]) -> bytes:
    """The network configuration of a template.

    Raises:
        FailedPreconditionError: the template is wrong, or what it makes is no network configuration.
    """
    families = {ipaddress.ip_network(part).version for part in pods}
    routes = [route for version, route in ((4, "0.0.0.0/0"), (6, "::/0")) if version in families]
    values = {".PodCIDR": pods[0], ".PodCIDRRanges": pods, ".Routes": routes}
    try:
        made = render(text, values)
        cniconf.parse(json.loads(made), "cni_conf_template")
    except (ValueError, InvalidArgumentError) as exc:
        raise FailedPreconditionError(f"cni_conf_template: {exc}") from exc
    return made.encode()


def render(text: str, values: Mapping[str, Any]) -> str:
    """Fill a template.

    Raises:
        ValueError: it is wrong, with the tag.
    """
    pieces = _TAG.split(_TRIM.sub("", text))
    out: list[str] = []
    at, ended_by = _block(pieces, 0, values, out)
    if at < len(pieces):
        raise ValueError(f"{{{{{ended_by}}}}} without a beginning")
    return "".join(out)


def _block(pieces: list[str], at: int, values: Mapping[str, Any], out: list[str]) -> tuple[int, str]:
    """Fill up to the tag that ends this block; returns what comes after that, and the tag."""
    while True:
        out.append(pieces[at])
        if at + 1 >= len(pieces):
            return len(pieces), ""
        tag, at = pieces[at + 1], at + 2
        if tag in ("end", "else"):
            return at, tag
        if found := _RANGE.fullmatch(tag):
            index, name, wanted = found.groups()
            turns: list[Mapping[str, Any]] = [
                {**values, ".": item, index or "": number, name or "": item}
                for number, item in enumerate(_value(wanted, values))
            ]
            at = _choose(pieces, at, turns, values, out)
        elif found := _IF.fullmatch(tag):
            at = _choose(pieces, at, [values] if _value(found[1], values) else [], values, out)
        elif _VALUE.fullmatch(tag):
            out.append(str(_value(tag, values)))
        else:
            raise ValueError(f"{{{{{tag}}}}} is not understood")


def _choose(
    pieces: list[str],
    at: int,
    turns: list[Mapping[str, Any]],
    values: Mapping[str, Any],
    out: list[str],
) -> int:
    """Fill a block once for each turn, or what stands after `else` when there is none."""
    after, ended_by = at, ""
    skipped: Mapping[str, Any] = defaultdict(str)  # a block that is passed over may name what there is not
    for scope in turns or [skipped]:
        after, ended_by = _block(pieces, at, scope, out if turns else [])
    if ended_by == "else":
        after, ended_by = _block(pieces, after, skipped if turns else values, [] if turns else out)
    if ended_by != "end":
        raise ValueError("{{end}} is missing")
    return after


def _value(name: str, values: Mapping[str, Any]) -> Any:
    try:
        return values[name]
    except KeyError as exc:
        raise ValueError(f"{{{{{name}}}}} is unknown") from exc
