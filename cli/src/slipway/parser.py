"""The command line's words."""

import argparse
import os
import sys
from typing import NoReturn

from slipway.exitcode import DAEMON
from slipway.imageverbs import add_images
from slipway.verbs import Verbs, add_output, add_verb

DESCRIPTION = "Images and containers of a Slipway node."
EXAMPLES = """examples:
  slipway pull registry.example/app:1          with a bar for each layer
  slipway tag app:1 registry.example/app:new   one more name for it
  slipway history app:1                        how it was made
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
    add_images(verbs)
    _containers(verbs)
    _pods(verbs)
    _processes(verbs)
    _run(verbs)
    _observe(verbs)
    return parser


def _containers(verbs: "Verbs[argparse.ArgumentParser]") -> None:
    ps = add_verb(verbs, "ps", "list containers", "containers:ps")
    ps.add_argument("-a", "--all", action="store_true", help="those that do not run too")
    add_output(ps)
    stop = add_verb(verbs, "stop", "stop containers", "containers:stop")
    stop.add_argument("-t", "--time", type=int, default=10, help="seconds until SIGKILL (%(default)s)")
    stop.add_argument("container", nargs="+")
    rm = add_verb(verbs, "rm", "remove containers, with the pods that `run` made for them", "containers:rm")
    rm.add_argument("-f", "--force", action="store_true", help="running ones too")
    rm.add_argument("container", nargs="+")
    inspect = add_verb(verbs, "inspect", "all that is known of containers, as JSON", "containers:inspect")
    inspect.add_argument("container", nargs="+")
    stats = add_verb(verbs, "stats", "CPU, memory and disk of the running containers", "containers:stats")
    stats.add_argument("--no-stream", action="store_true", help="once, not each second")
    add_output(stats)
    logs = add_verb(verbs, "logs", "print a container's output", "logs:logs")
    logs.add_argument("-f", "--follow", action="store_true")
    logs.add_argument("--tail", type=int, default=-1, metavar="N", help="the last N lines only")
    logs.add_argument("-t", "--timestamps", action="store_true")
    logs.add_argument("container")


def _pods(verbs: "Verbs[argparse.ArgumentParser]") -> None:
    pods = add_verb(verbs, "pods", "list pods, or inspect, stop and remove them", "pods:ps")
    add_output(pods)
    inner = pods.add_subparsers(metavar="COMMAND")
    add_output(add_verb(inner, "ps", "list pods, as without a command", "pods:ps"))
    inspect = add_verb(inner, "inspect", "all that is known of pods, as JSON", "pods:inspect")
    stop = add_verb(inner, "stop", "stop pods, with all their containers", "pods:stop")
    rm = add_verb(inner, "rm", "remove pods, with all their containers", "pods:rm")
    rm.add_argument("-f", "--force", action="store_true", help="ready ones too")
    for verb in (inspect, stop, rm):
        verb.add_argument("pod", nargs="+", help="name, id or the beginning of one")


def _processes(verbs: "Verbs[argparse.ArgumentParser]") -> None:
    wait = add_verb(verbs, "wait", "wait until containers end, and print their exit codes", "processes:wait")
    wait.add_argument("container", nargs="+")
    kill = add_verb(verbs, "kill", "send a signal to containers", "processes:kill")
    kill.add_argument("-s", "--signal", default="KILL", help="name or number (%(default)s)")
    kill.add_argument("container", nargs="+")
    top = add_verb(verbs, "top", "the processes of a container", "processes:top")
    add_output(top)
    top.add_argument("container")


def _run(verbs: "Verbs[argparse.ArgumentParser]") -> None:
    run = add_verb(verbs, "run", "run a container in a pod of its own", "run:run")
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
    execute = add_verb(verbs, "exec", "run a command in a running container", "execute:execute")
    execute.add_argument("-i", "--interactive", action="store_true")
    execute.add_argument("-t", "--tty", action="store_true")
    execute.add_argument("container")
    execute.add_argument("command", nargs=argparse.REMAINDER)


def _observe(verbs: "Verbs[argparse.ArgumentParser]") -> None:
    events = add_verb(verbs, "events", "follow the lifecycle events of this node", "observe:events")
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
    add_output(events)
    add_output(add_verb(verbs, "status", "conditions and handlers of the node", "observe:status"))
    completion = add_verb(
        verbs,
        "completion",
        'completion for a shell: eval "$(slipway completion bash)"',
        "completion:completion",
    )
    completion.add_argument("shell", choices=("bash",))
