"""The command line's words."""

import argparse
import os
import sys
from typing import NoReturn

from slipway.exitcode import DAEMON

DESCRIPTION = "Images and containers of a Slipway node."
EXAMPLES = """examples:
  slipway pull registry.example/app:1          with a bar for each layer
  slipway run --rm -it busybox sh              a shell in a new container
  slipway run -d --name web -p 8080:80 nginx   in the background, with a port
  slipway logs -f web                          follow its output
  slipway top web                              the processes in it
  slipway kill -s HUP web                      a signal to its first process
  slipway pods stop web                        its pod, with all that runs in it
  slipway events --since 10m                   what happened on this node
"""


class Parser(argparse.ArgumentParser):
    """Wrong words end as docker's do: a lower code could be one of the command that `run` or `exec` was to run."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(DAEMON, f"{self.prog}: {message}: see {self.prog} --help\n")


def build() -> argparse.ArgumentParser:
    """All commands; each sets `run` to the module and function that does it."""
    parser: argparse.ArgumentParser = Parser(
        prog="slipway",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    run_dir = os.environ.get("SLIPWAY_RUN_DIR", "/run/slipway")  # noqa: TID251 - read once, here
    parser.add_argument("--run-dir", default=run_dir, help="where the node's sockets are (%(default)s)")
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table")
    verbs = parser.add_subparsers(required=True, metavar="COMMAND")
    _images(verbs)
    _containers(verbs)
    _pods(verbs)
    _processes(verbs)
    _run(verbs)
    _observe(verbs)
    return parser


Verbs = argparse._SubParsersAction  # noqa: SLF001 - argparse has no public name for it


def _verb(
    verbs: "Verbs[argparse.ArgumentParser]", name: str, text: str, where: str
) -> argparse.ArgumentParser:
    verb = verbs.add_parser(name, help=text, description=text)
    verb.set_defaults(run=where)
    return verb


def _output(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("-o", "--output", choices=("table", "json"), default=argparse.SUPPRESS)


def _images(verbs: "Verbs[argparse.ArgumentParser]") -> None:
    pull = _verb(verbs, "pull", "pull an image from its registry", "images:pull")
    pull.add_argument("reference")
    pull.add_argument("--creds", default="", metavar="USER:PASSWORD")
    _output(pull)
    _output(_verb(verbs, "images", "list images", "images:images"))
    rmi = _verb(verbs, "rmi", "remove images", "images:rmi")
    rmi.add_argument("reference", nargs="+")


def _containers(verbs: "Verbs[argparse.ArgumentParser]") -> None:
    ps = _verb(verbs, "ps", "list containers", "containers:ps")
    ps.add_argument("-a", "--all", action="store_true", help="those that do not run too")
    _output(ps)
    stop = _verb(verbs, "stop", "stop containers", "containers:stop")
    stop.add_argument("-t", "--time", type=int, default=10, help="seconds until SIGKILL (%(default)s)")
    stop.add_argument("container", nargs="+")
    rm = _verb(verbs, "rm", "remove containers, with the pods that `run` made for them", "containers:rm")
    rm.add_argument("-f", "--force", action="store_true", help="running ones too")
    rm.add_argument("container", nargs="+")
    inspect = _verb(verbs, "inspect", "all that is known of containers, as JSON", "containers:inspect")
    inspect.add_argument("container", nargs="+")
    stats = _verb(verbs, "stats", "CPU, memory and disk of the running containers", "containers:stats")
    stats.add_argument("--no-stream", action="store_true", help="once, not each second")
    _output(stats)
    logs = _verb(verbs, "logs", "print a container's output", "logs:logs")
    logs.add_argument("-f", "--follow", action="store_true")
    logs.add_argument("--tail", type=int, default=-1, metavar="N", help="the last N lines only")
    logs.add_argument("-t", "--timestamps", action="store_true")
    logs.add_argument("container")


def _pods(verbs: "Verbs[argparse.ArgumentParser]") -> None:
    pods = _verb(verbs, "pods", "list pods, or inspect, stop and remove them", "pods:ps")
    _output(pods)
    inner = pods.add_subparsers(metavar="COMMAND")
    _output(_verb(inner, "ps", "list pods, as without a command", "pods:ps"))
    inspect = _verb(inner, "inspect", "all that is known of pods, as JSON", "pods:inspect")
    stop = _verb(inner, "stop", "stop pods, with all their containers", "pods:stop")
    rm = _verb(inner, "rm", "remove pods, with all their containers", "pods:rm")
    rm.add_argument("-f", "--force", action="store_true", help="ready ones too")
    for verb in (inspect, stop, rm):
        verb.add_argument("pod", nargs="+", help="name, id or the beginning of one")


def _processes(verbs: "Verbs[argparse.ArgumentParser]") -> None:
    wait = _verb(verbs, "wait", "wait until containers end, and print their exit codes", "processes:wait")
    wait.add_argument("container", nargs="+")
    kill = _verb(verbs, "kill", "send a signal to containers", "processes:kill")
    kill.add_argument("-s", "--signal", default="KILL", help="name or number (%(default)s)")
    kill.add_argument("container", nargs="+")
    top = _verb(verbs, "top", "the processes of a container", "processes:top")
    _output(top)
    top.add_argument("container")


def _run(verbs: "Verbs[argparse.ArgumentParser]") -> None:
    run = _verb(verbs, "run", "run a container in a pod of its own", "run:run")
    run.add_argument("-d", "--detach", action="store_true", help="print the id and leave it running")
    run.add_argument("-i", "--interactive", action="store_true", help="give it our standard input")
    run.add_argument("-t", "--tty", action="store_true", help="give it a terminal")
    run.add_argument("--rm", action="store_true", help="remove it when it ends")
    run.add_argument("--name", default="")
    run.add_argument("-e", "--env", action="append", default=[], metavar="KEY=VALUE")
    run.add_argument("-v", "--volume", action="append", default=[], metavar="HOST:CONTAINER[:ro]")
    run.add_argument("-p", "--publish", action="append", default=[], metavar="[IP:]HOST:CONTAINER[/PROTOCOL]")
    run.add_argument("-u", "--user", default="", metavar="UID[:GID]|NAME")
    run.add_argument("-w", "--workdir", default="")
    run.add_argument("--entrypoint", default="", help="in place of the image's")
    run.add_argument("--hostname", default="")
    run.add_argument("-m", "--memory", default="", metavar="256m", help="limit of memory")
    run.add_argument("--cpus", type=float, default=0.0, help="limit of processors")
    run.add_argument("--read-only", action="store_true", help="no writing to the root filesystem")
    run.add_argument("--network", "--net", choices=("pod", "host"), default="pod")
    run.add_argument("--handler", default="", help="crun, runc or another of the node's settings")
    run.add_argument("--privileged", action="store_true")
    run.add_argument("image")
    run.add_argument("command", nargs=argparse.REMAINDER)
    execute = _verb(verbs, "exec", "run a command in a running container", "execute:execute")
    execute.add_argument("-i", "--interactive", action="store_true")
    execute.add_argument("-t", "--tty", action="store_true")
    execute.add_argument("container")
    execute.add_argument("command", nargs=argparse.REMAINDER)


def _observe(verbs: "Verbs[argparse.ArgumentParser]") -> None:
    events = _verb(verbs, "events", "follow the lifecycle events of this node", "observe:events")
    events.add_argument("--since", default="", metavar="10m", help="begin that long ago (s, m, h, d)")
    events.add_argument("--until-now", action="store_true", help="end with what there is, do not follow")
    events.add_argument(
        "--filter",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="kind=container, verb=exited, id=..., node=...",
    )
    events.add_argument("--nats", default="", help="another NATS than the node's")
    _output(events)
    _output(_verb(verbs, "status", "conditions and handlers of the node", "observe:status"))
    completion = _verb(
        verbs,
        "completion",
        'completion for a shell: eval "$(slipway completion bash)"',
        "completion:completion",
    )
    completion.add_argument("shell", choices=("bash",))
