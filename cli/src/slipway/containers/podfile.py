"""A pod as a file describes it: in our short form, or in CRI's own words.

Short: `name`, `network`, `hostname`, `ports`, `handler` and `containers`, each with `image` and the options of `run` by
their long names. CRI's: `sandbox` (a PodSandboxConfig), `containers` (ContainerConfigs), `handler`.
"""

import sys
from argparse import Namespace
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from common.api.cri.v1 import api_pb2 as cri
from common.errors import InvalidArgumentError
from slipway.connect import OWNER, log_root
from slipway.options import mounts, request
from slipway.parser import build
from slipway.streams import questions

POD = ("name", "network", "hostname", "ports", "handler", "containers")
CRI = ("sandbox", "containers", "handler")
CONTAINER = {
    "name": str,
    "image": str,
    "entrypoint": str,
    "command": list,
    "env": dict,
    "volumes": list,
    "user": str,
    "workdir": str,
    "memory": str,
    "memory_swap": str,
    "cpus": float,
    "cpu_shares": int,
    "cpuset_cpus": str,
    "cpuset_mems": str,
    "pids_limit": int,
    "read_only": bool,
    "privileged": bool,
    "tty": bool,
    "interactive": bool,
}
"""Keys of a container in the short form, and what each holds."""


@dataclass
class Pod:
    """What is to be run: images stand by the names that people gave."""

    sandbox: cri.PodSandboxConfig
    containers: list[cri.ContainerConfig] = field(default_factory=list)
    handler: str = ""


def read(path: str, run_dir: str) -> Pod:
    """The pod of a YAML or JSON file; `-` is standard input.

    Raises:
        InvalidArgumentError: the file, the key and the value that is wrong.
    """
    try:
        with questions.answering():
            text = sys.stdin.read() if path == "-" else Path(path).read_text()
        found = msgspec.yaml.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        message = f"{path}: is neither YAML nor JSON: {exc}"
        raise InvalidArgumentError(message) from exc
    if not isinstance(found, dict):
        message = f"{path}: want a table with the keys {', '.join(POD)}"
        raise InvalidArgumentError(message)
    return _cri(path, found, run_dir) if "sandbox" in found else _short(path, found, run_dir)


def of_images(options: Namespace) -> Pod:
    """A pod of one container for each image, named from it, by the options of the command line."""
    made = _options({"image": options.images[0], "privileged": False})
    vars(made).update(network=options.network, hostname=options.hostname, publish=options.publish)
    made.name = options.name
    pod = Pod(_sandbox(made, options.run_dir), handler=options.handler)
    for image in options.images:
        wanted = _options({"image": image})
        wanted.network = options.network
        _add(pod, wanted)
    return pod


def _short(path: str, found: dict[str, Any], run_dir: str) -> Pod:
    _known(path, "", found, POD)
    containers = found.get("containers")
    if not isinstance(containers, list) or not containers:
        message = f"{path}: containers: want a list of tables, each with an image"
        raise InvalidArgumentError(message)
    wanted = [_container(path, f"containers[{i}]", value) for i, value in enumerate(containers)]
    top = _options({"image": wanted[0].image, "privileged": any(w.privileged for w in wanted)})
    top.name = _text(path, "name", found)
    top.hostname = _text(path, "hostname", found)
    top.network = _text(path, "network", found) or "pod"
    if top.network not in ("pod", "host"):
        message = f"{path}: network {top.network!r}: want pod or host"
        raise InvalidArgumentError(message)
    ports = found.get("ports") or []
    if not isinstance(ports, list):
        message = f"{path}: ports {ports!r}: want a list such as ['8080:80']"
        raise InvalidArgumentError(message)
    top.publish = [str(port) for port in ports]
    pod = Pod(_sandbox(top, run_dir), handler=_text(path, "handler", found))
    for one in wanted:
        one.network = top.network
        _add(pod, one)
    return pod


def _container(path: str, where: str, found: Any) -> Namespace:
    if not isinstance(found, dict) or not isinstance(found.get("image"), str):
        message = f"{path}: {where}: want a table with an image"
        raise InvalidArgumentError(message)
    _known(path, f"{where}.", found, tuple(CONTAINER))
    for key, value in found.items():
        kind = CONTAINER[key]
        fits = (
            isinstance(value, kind)
            or (kind is str and isinstance(value, int))
            or (kind is float and isinstance(value, int))
        )
        if not fits or (isinstance(value, bool) and kind is not bool):
            message = f"{path}: {where}.{key} = {value!r}: want {_KINDS[kind]}"
            raise InvalidArgumentError(message)
    made = _options(found)
    folder = Path.cwd() / Path(path).parent
    made.volume = [mounts.absolute(text, folder) for text in made.volume]
    return made


_KINDS = {
    str: "a text",
    list: "a list",
    dict: "a table",
    float: "a number",
    int: "a number",
    bool: "true or false",
}


def _options(found: dict[str, Any]) -> Namespace:
    """The options of `run` with what a file has of them."""
    options = build(["run"]).parse_args(["run", "-d", "--", str(found["image"])])
    for key, value in found.items():
        if key == "env":
            options.env = [f"{name}={text}" for name, text in value.items()]
        elif key == "volumes":
            options.volume = [str(text) for text in value]
        elif key == "command":
            options.command = [str(word) for word in value]
        else:
            setattr(options, key, str(value) if CONTAINER[key] is str else value)
    return options


def _sandbox(options: Namespace, run_dir: str) -> cri.PodSandboxConfig:
    config = request.sandbox(options, request.name_of(options), log_root(run_dir))
    config.labels[OWNER] = "pod"  # which is not gone with one of its containers
    return config


def _add(pod: Pod, options: Namespace) -> None:
    name = request.name_of(options)
    config = request.container(options, name, options.image)
    config.log_path = f"{name}.log"
    pod.containers.append(config)


def _cri(path: str, found: dict[str, Any], run_dir: str) -> Pod:
    from google.protobuf.json_format import ParseDict, ParseError

    _known(path, "", found, CRI)
    pod = Pod(cri.PodSandboxConfig(), handler=_text(path, "handler", found))
    try:
        ParseDict(found["sandbox"], pod.sandbox)
        pod.containers = [ParseDict(one, cri.ContainerConfig()) for one in found.get("containers") or []]
    except (ParseError, TypeError, AttributeError) as exc:
        message = f"{path}: is no pod of CRI: {exc}"
        raise InvalidArgumentError(message) from exc
    for config in pod.containers:
        config.image.user_specified_image = config.image.user_specified_image or config.image.image
    if not pod.sandbox.log_directory:
        pod.sandbox.log_directory = f"{log_root(run_dir)}/{pod.sandbox.metadata.uid}"
    return pod


def _known(path: str, where: str, found: dict[str, Any], known: tuple[str, ...]) -> None:
    for key in found:
        if key not in known:
            message = f"{path}: {where}{key}: is no key of a pod; known are {', '.join(known)}"
            raise InvalidArgumentError(message)


def _text(path: str, key: str, found: dict[str, Any]) -> str:
    value = found.get(key, "")
    if not isinstance(value, str):
        message = f"{path}: {key} = {value!r}: want a text"
        raise InvalidArgumentError(message)
    return value
