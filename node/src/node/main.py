"""`slipway-node up | down | status | run | prepare | check`."""

import argparse
import os
import signal
import socket
import sys
import tomllib
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_type_hints

import anyio

from common.clients import opsd
from common.errors import FailedPreconditionError, InvalidArgumentError, SlipwayError
from common.observe import log
from common.settings import CommonSettings, refusal, refused_value, without_secrets
from node import prepare, running, waiting
from node.layout import SERVICES, Layout, program
from node.supervisor import Supervisor, start_detached

READY_S = 60.0
LAST_PORT = 65_535
PASSING = 75
"""The exit status (EX_TEMPFAIL) when the machine refused, as a full disk does: systemd tries again."""
NOT_RUNNING = 3
UNSUPERVISED = 1
"""The exit statuses of `status` that the Linux Standard Base gives these."""


def main() -> None:
    """Entry point; errors are one sentence on stderr and status 1."""
    arguments = _parser().parse_args()
    try:
        _read_config(arguments)
        arguments.run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # whoever read us has left; what is still to be flushed would tell so once more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except SlipwayError as exc:
        sys.stderr.write(f"slipway-node: {exc}\n")
        sys.exit(1)
    except OSError as exc:
        sys.stderr.write(f"slipway-node: {exc}\n")
        sys.exit(PASSING)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="slipway-node", description="Runs a whole Slipway node.")
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    for name, function, text in (
        ("up", _up, "start the node in the background and wait until it answers"),
        ("run", _run, "run the node in the foreground"),
        ("down", _down, "stop the node; containers go on under their shims"),
        ("status", _status, "say what runs"),
        ("check", _check, "say whether the settings are ones, and change nothing"),
        ("prepare", _prepare, "make directories, token and settings, for systemd's units or containers"),
    ):
        verb = verbs.add_parser(name, help=text, description=text)
        _add_options(verb)
        verb.set_defaults(run=function)
        if function in (_prepare, _check):
            verb.add_argument(
                "--containers", action="store_true", help="with a user for each that needs no privileges"
            )
    return parser


def _add_options(verb: argparse.ArgumentParser) -> None:
    """Those that all verbs take; each but the first and the last is a field of Layout."""
    plain = Layout()
    verb.add_argument("--config", metavar="FILE", help="TOML with such options, which win")
    for option in ("--run-dir", "--data-dir", "--certs-dir", "--cni-dir"):
        verb.add_argument(option, default=getattr(plain, option.strip("-").replace("-", "_")))
    verb.add_argument(
        "--settings-dir",
        default=plain.settings_dir,
        help="where SERVICE.toml, if it is there, has settings of a service (%(default)s)",
    )
    verb.add_argument(
        "--node", default="", help="its name in events and records; as it was before, else the host's"
    )
    verb.add_argument(
        "--otlp",
        default=plain.otlp_endpoint,
        dest="otlp_endpoint",
        metavar="URL",
        help="send traces there, as http://HOST:PORT",
    )
    for server, what in (("nats", "that nodes share"), ("redis", "of others")):
        verb.add_argument(
            f"--{server}-url",
            default="",
            metavar="URL",
            help=f"of a {server} {what}, in place of the node's own; one with a password belongs into --config",
        )
    for option, default in (
        ("--events-max-bytes", plain.events_max_bytes),
        ("--events-max-age-s", plain.events_max_age_s),
        ("--events-max-repeats", plain.events_max_repeats),
    ):
        verb.add_argument(option, type=int, default=default, help="that NATS keeps (%(default)s)")
    verb.add_argument(
        "--nats-port", type=int, default=plain.nats_port, help="0 takes the last one, or a free one"
    )
    verb.add_argument(
        "--metrics-port",
        type=int,
        default=plain.metrics_port,
        help="the first of the loopback ports for Prometheus; 0 for none (%(default)s)",
    )
    verb.add_argument(
        "--dashboard-port",
        type=int,
        default=plain.dashboard_port,
        help="the loopback port of the dashboard; 0 for any free one (%(default)s)",
    )
    verb.add_argument("--ready-s", type=float, default=READY_S, help="how long `up` waits for the services")


def _read_config(arguments: argparse.Namespace) -> None:
    """Take options from the file; it wins over the command line.

    Raises:
        InvalidArgumentError: it cannot be read, or says what no option is.
    """
    if not arguments.config:
        return
    try:
        values = tomllib.loads(Path(arguments.config).read_text())
    except (OSError, ValueError) as exc:
        message = f"{arguments.config}: {exc}"
        raise InvalidArgumentError(message) from exc
    known = get_type_hints(Layout)
    for_units = arguments.run in (_prepare, _check) and not arguments.containers
    for key, value in values.items():
        if key not in known or type(value) is not known[key]:
            kinds = ", ".join(f"{name} ({kind.__name__})" for name, kind in known.items())
            message = f"{arguments.config}: {key} = {refused_value(value)!r}: known are {kinds}"
            raise InvalidArgumentError(message)
        if for_units and key in prepare.FIXED and value != (fixed := getattr(arguments, key)):
            message = f"{arguments.config}: {key} = {value!r}: systemd's units have {fixed} written in them"
            raise InvalidArgumentError(message)
        setattr(arguments, key, value)


def _layout(arguments: argparse.Namespace) -> Layout:
    values = {field.name: getattr(arguments, field.name) for field in fields(Layout)}
    for key in ("nats_port", "metrics_port", "dashboard_port"):
        if not 0 <= values[key] <= LAST_PORT:
            message = f"{key} = {values[key]}: a port is at most {LAST_PORT}"
            raise InvalidArgumentError(message)
    for key in ("nats_url", "redis_url", "events_max_bytes", "events_max_age_s", "events_max_repeats"):
        if values[key] != "" and (why := refusal(CommonSettings, key, values[key])):
            message = f"{key} = {refused_value(values[key])!r}: {why}"
            raise InvalidArgumentError(message)
    return _named(Layout(**values))


def _named(layout: Layout) -> Layout:
    """With the name that is given, else the one that it had, else that of the host."""
    if layout.node:
        return layout
    host = socket.gethostname()
    try:
        before = layout.name_file.read_text().strip()
    except OSError:
        before = ""
    if before and before != host:
        sys.stderr.write(
            f"slipway-node: the node is {before} as before, though the host is {host} now: `node` or --node renames it\n"
        )
    return replace(layout, node=before or host)


def _need_root() -> None:
    if os.geteuid() != 0:
        message = "a node needs root: run it with sudo"
        raise FailedPreconditionError(message)


def _check(arguments: argparse.Namespace) -> None:
    _layout(arguments)
    sys.stdout.write(f"{arguments.config or 'the options'}: good\n")


def _prepare(arguments: argparse.Namespace) -> None:
    _need_root()
    if arguments.containers and not arguments.nats_url:
        # of compose: it may have a token, and a command line all can read
        arguments.nats_url = os.environ.get("SLIPWAY_NATS_URL", "")  # noqa: TID251 - options are no settings of a service
    (prepare.for_containers if arguments.containers else prepare.for_units)(_layout(arguments))


def _up(arguments: argparse.Namespace) -> None:
    _need_root()
    layout = _layout(arguments)
    for name in (*(f"{server}-server" for server in layout.servers), *SERVICES):
        program(name)
    state = waiting.join(arguments.run_dir, arguments.ready_s)
    if not state:
        Path(layout.data_dir).mkdir(mode=0o700, parents=True, exist_ok=True)
        Path(layout.run_dir).mkdir(mode=0o711, parents=True, exist_ok=True)
        child = start_detached(layout)
        try:
            state = waiting.until_ready(arguments.run_dir, child, arguments.ready_s)
        except SlipwayError:
            child.terminate()
            child.wait(waiting.DOWN_S)
            raise
    _print_up(state)


def _run(arguments: argparse.Namespace) -> None:
    log.setup("info")
    anyio.run(Supervisor(_layout(arguments)).run)


def _down(arguments: argparse.Namespace) -> None:
    run_dir = arguments.run_dir
    running.refuse_foreign(run_dir)
    if pid := running.supervisor(run_dir):
        waiting.until_ended(pid, signal.SIGTERM)
    elif os.geteuid() == 0 and (left := running.left(run_dir)):
        lock = running.lock(run_dir)
        try:
            running.end(left)
            Path(run_dir, "node.json").unlink(missing_ok=True)
        finally:
            os.close(lock)
    else:
        sys.stdout.write(f"no node runs in {run_dir}\n")
        return
    sys.stdout.write(f"node in {run_dir} is down\n")


def _status(arguments: argparse.Namespace) -> None:
    run_dir = arguments.run_dir
    state = running.state(run_dir)
    pids = state["pids"] if state else running.left(run_dir)
    for name, pid in pids.items():
        up = "ready" if name not in SERVICES or waiting.serves(run_dir, name) else "not ready"
        sys.stdout.write(f"{name:<10} pid {pid:<8} {up}\n")
    if not pids:
        sys.stdout.write(f"no node runs in {run_dir}\n")
        sys.exit(NOT_RUNNING)
    if not state and not running.supervisor(run_dir):
        sys.stdout.write("their supervisor has gone: `slipway-node up` starts them anew, `down` ends them\n")
        sys.exit(UNSUPERVISED)


def _print_up(state: dict[str, Any]) -> None:
    sock = state["cri_socket"]
    try:
        page = opsd.link(state["run_dir"])
    except SlipwayError as exc:
        page = f"not there yet ({exc.message}): slipway --run-dir {state['run_dir']} dashboard"
    own = f", token in {state['data_dir']}/nats-token" if "nats" in state["pids"] else ""
    sys.stdout.write(
        f"node is up\n  CRI     unix://{sock}\n  NATS    {without_secrets(state['nats_url'])}{own}\n"
        f"  logs    {state['run_dir']}/log\n  page    {page}\n"
        f"  try     slipway --run-dir {state['run_dir']} status\n"
        f"          crictl --runtime-endpoint unix://{sock} info\n"
        f"  kubelet --container-runtime-endpoint=unix://{sock}\n"
    )
