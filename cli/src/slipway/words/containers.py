"""The command line's words for containers that are there."""

import argparse

from slipway.words.verb import Verbs, add_output, add_verb


def add(verbs: "Verbs[argparse.ArgumentParser]") -> None:
    """All verbs of containers."""
    _lists(verbs)
    _life(verbs)
    _output(verbs)
    _processes(verbs)
    _ports(verbs)
    _copy(verbs)


def add_containers(verb: argparse.ArgumentParser) -> None:
    """The containers that a verb is about."""
    verb.add_argument("container", nargs="+", help="name, id or the beginning of one")


def add_container(verb: argparse.ArgumentParser) -> None:
    """The container that a verb is about."""
    verb.add_argument("container", help="name, id or the beginning of one")


def add_grace(verb: argparse.ArgumentParser) -> None:
    """How a container is asked to end, and how long it may take."""
    verb.add_argument("-s", "--signal", default="", help="in place of its stop signal: name or number")
    verb.add_argument(
        *("-t", "--time", "--timeout"),
        type=int,
        default=10,
        metavar="SECONDS",
        help="until SIGKILL (%(default)s)",
    )


def _lists(verbs: "Verbs[argparse.ArgumentParser]") -> None:
    examples = """
        slipway ps  those that run
        slipway ps -a  those that have ended too, with their codes
        slipway ps -f label=tier=front -f status=running  by a label
        slipway rm $(slipway ps -aq)  remove all that have ended
        slipway ps -a --format json | jq -r '.[].container.id'  for programs"""
    ps = add_verb(verbs, "ps", "list containers", "lists:containers", examples)
    ps.add_argument("-a", "--all", action="store_true", help="those that do not run too")
    ps.add_argument("-q", "--quiet", action="store_true", help="ids only")
    ps.add_argument("--no-trunc", action="store_true", help="whole ids and commands")
    ps.add_argument("-n", "--last", type=int, default=-1, metavar="N", help="the last N that were made")
    ps.add_argument("-l", "--latest", dest="last", action="store_const", const=1, help="the last one")
    ps.add_argument(
        *("-f", "--filter"),
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="name, id, status, label, ancestor, pod, origin or exited; several of one key are alternatives",
    )
    ps.add_argument("-s", "--size", action="store_true", help="what each wrote into its root filesystem")
    add_output(ps)
    examples = """
        slipway inspect web  state, exit code, mounts, addresses, ports, command, environment
        slipway inspect web | jq -r '.[0].network.ips[0]'  a part of it
        slipway inspect busybox | jq '.[0].Config.Cmd'  of an image, when no container has the name"""
    inspect = add_verb(
        verbs, "inspect", "all that is known of containers or images, as JSON", "facts:containers", examples
    )
    inspect.add_argument("--type", choices=("container", "image"), help="nothing else of this name")
    inspect.add_argument(
        "-s", "--size", action="store_true", help="what containers wrote into their root filesystems"
    )
    inspect.add_argument("container", nargs="+", help="name, id or the beginning of one; or an image")
    examples = """
        slipway stats  each second, until Ctrl-C
        slipway stats --no-stream web db  once, of two"""
    stats = add_verb(verbs, "stats", "CPU, memory and disk of containers that run", "stats:stats", examples)
    stats.add_argument("-a", "--all", action="store_true", help="those that do not run too")
    stats.add_argument("--no-stream", action="store_true", help="once, not each second")
    stats.add_argument("--no-trunc", action="store_true", help="whole ids")
    stats.add_argument("container", nargs="*", help="name, id or the beginning of one; all without it")
    add_output(stats)


def _life(verbs: "Verbs[argparse.ArgumentParser]") -> None:
    examples = """
        slipway stop web  its stop signal, and SIGKILL after 10 s
        slipway stop -t 0 web db  SIGKILL at once, to both
        slipway stop -s INT web  another signal than its own"""
    stop = add_verb(verbs, "stop", "stop containers", "containers:stop", examples)
    add_grace(stop)
    add_containers(stop)
    examples = """
        slipway rm web  one that has ended
        slipway rm -f web  also when it runs"""
    rm = add_verb(
        verbs, "rm", "remove containers, with the pods that `run` made for them", "containers:rm", examples
    )
    rm.add_argument("-f", "--force", action="store_true", help="running ones too")
    rm.add_argument(
        "-v", "--volumes", action="store_true", help="for docker's scripts: an image's volumes go in any case"
    )
    add_containers(rm)


def _output(verbs: "Verbs[argparse.ArgumentParser]") -> None:
    examples = """
        slipway logs web  all that it wrote
        slipway logs -f --tail 10 web  the last lines, and what comes
        slipway logs --since 10m --until 5m web  what it wrote then
        slipway logs -t web | grep error  with the time of each line; a pipe gets each byte as it is"""
    logs = add_verb(verbs, "logs", "print a container's output", "logs:logs", examples)
    logs.add_argument("-f", "--follow", action="store_true", help="go on until it ends, or --until")
    logs.add_argument("-n", "--tail", default="all", metavar="N", help="the last N lines only, or all")
    when = "a time such as 2026-01-31T12:00:00Z, or an age such as 10m"
    logs.add_argument("--since", default="", metavar="TIME", help=f"from then on: {when}")
    logs.add_argument("--until", default="", metavar="TIME", help="up to then")
    logs.add_argument("-t", "--timestamps", action="store_true", help="the time of each line before it")
    logs.add_argument("--raw", action="store_true", help="let it command our terminal, not only colour it")
    add_container(logs)


def _processes(verbs: "Verbs[argparse.ArgumentParser]") -> None:
    examples = """
        slipway wait job  print its exit code when it has ended
        slipway wait one two  in this order"""
    wait = add_verb(
        verbs, "wait", "wait until containers end, and print their exit codes", "processes:wait", examples
    )
    add_containers(wait)
    examples = """
        slipway kill web  SIGKILL
        slipway kill -s HUP web  to its first process"""
    kill = add_verb(verbs, "kill", "send a signal to containers", "signals:kill", examples)
    kill.add_argument("-s", "--signal", default="KILL", help="name or number (%(default)s)")
    add_containers(kill)
    examples = "slipway top web  with the node's process ids"
    top = add_verb(verbs, "top", "the processes of a container", "processes:top", examples)
    add_output(top)
    add_container(top)
    examples = """
        slipway pause web  it uses no processor until it is unpaused
        slipway stop web  ends it all the same"""
    pause = add_verb(verbs, "pause", "hold all processes of containers still", "signals:pause", examples)
    add_containers(pause)
    unpause = add_verb(
        verbs,
        "unpause",
        "let paused containers run on",
        "signals:unpause",
        "slipway unpause web  from where it was",
    )
    add_containers(unpause)


def _ports(verbs: "Verbs[argparse.ArgumentParser]") -> None:
    examples = """
        slipway port web  all that are published
        slipway port web 53/udp  one of them"""
    port = add_verb(verbs, "port", "where a container's ports are on the node", "ports:port", examples)
    add_container(port)
    port.add_argument("port", nargs="?", default="", metavar="PORT[/PROTOCOL]", help="one of its ports")
    examples = """
        slipway port-forward web 8080:80  until Ctrl-C; published or not
        slipway port-forward web :5432  on any port, which is printed"""
    forward = add_verb(
        verbs, "port-forward", "reach ports of a pod through ports of the node", "ports:forward", examples
    )
    forward.add_argument("--address", default="127.0.0.1", metavar="IP", help="where to listen (%(default)s)")
    forward.add_argument("pod", help="name or id of a pod or of a container")
    forward.add_argument("port", nargs="+", metavar="[LOCAL:]PORT", help="ours and the pod's")


def _copy(verbs: "Verbs[argparse.ArgumentParser]") -> None:
    examples = """
        slipway cp web:/etc/nginx .  a directory out of it
        slipway cp ./site/. web:/srv/www  what is in a directory, into one that is there
        slipway cp web:/var/log - | tar t  a tar stream out of it
        tar c data | slipway cp - web:/srv  and into it"""
    cp = add_verb(
        verbs, "cp", "copy files into a container or out of it, also when it has ended", "cp:cp", examples
    )
    cp.add_argument("-a", "--archive", action="store_true", help="keep user and group ids")
    cp.add_argument(
        "-L", "--follow-link", action="store_true", help="what a link at SOURCE leads to, not the link"
    )
    cp.add_argument("-q", "--quiet", action="store_true", help="do not say how much was copied")
    cp.add_argument("source", metavar="SOURCE", help="CONTAINER:PATH, a path, or - for a tar stream")
    cp.add_argument("target", metavar="TARGET", help="the other of them")
