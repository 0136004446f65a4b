"""The command line's words for running something."""

import argparse

from slipway.verbs import Verbs, add_verb


def add(verbs: "Verbs[argparse.ArgumentParser]") -> None:
    """`run` and `exec`."""
    examples = """
        slipway run --rm -it busybox sh  a shell, gone when it ends
        slipway run -d --name web -p 8080:80 nginx  in the background, with a port
        slipway run --rm -v /srv/data:/data:ro -m 256m --cpus 1.5 app:1 work  with files and limits
        slipway run --rm --network host busybox wget -O- localhost  in the node's own network"""
    run = add_verb(verbs, "run", "run a container in a pod of its own", "run:run", examples)
    run.add_argument("-d", "--detach", action="store_true", help="print the id and leave it running")
    run.add_argument("--rm", action="store_true", help="remove it when it ends")
    add_settings(run)
    examples = """
        slipway exec web cat /etc/hostname  its exit code is ours
        slipway exec -it web sh  a shell"""
    execute = add_verb(verbs, "exec", "run a command in a running container", "execute:execute", examples)
    execute.add_argument("-i", "--interactive", action="store_true", help="give it our standard input")
    execute.add_argument("-t", "--tty", action="store_true", help="give it a terminal")
    execute.add_argument("container", help="name, id or the beginning of one")
    execute.add_argument("command", nargs=argparse.REMAINDER, help="the command and its arguments")


def add_settings(verb: argparse.ArgumentParser) -> None:
    """What a container is made of."""
    option = verb.add_argument
    option("-i", "--interactive", action="store_true", help="give it our standard input")
    option("-t", "--tty", action="store_true", help="give it a terminal")
    option("--name", default="", help="its name; one from the image's without this")
    option(
        "-e",
        "--env",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a variable; KEY alone passes ours",
    )
    option(
        "-v",
        "--volume",
        action="append",
        default=[],
        metavar="HOST:CONTAINER[:ro]",
        help="a path of the node",
    )
    option(
        "-p",
        "--publish",
        action="append",
        default=[],
        metavar="[IP:]HOST:CONTAINER[/PROTOCOL]",
        help="a port of the node",
    )
    option(
        "-u", "--user", default="", metavar="UID[:GID]|NAME", help="who it runs as, in place of the image's"
    )
    option("-w", "--workdir", default="", help="where it starts, in place of the image's")
    option("--entrypoint", default="", help="in place of the image's")
    option("--hostname", default="", help="of its pod")
    option("-m", "--memory", default="", metavar="256m", help="limit of memory")
    option("--cpus", type=float, default=0.0, help="limit of processors")
    option("--read-only", action="store_true", help="no writing to the root filesystem")
    option("--network", "--net", choices=("pod", "host"), default="pod", help="of its own, or the node's")
    option("--handler", "--runtime", default="", help="crun, runc or another of the node's settings")
    option("--privileged", action="store_true", help="with all that root may do on the node")
    option("image", help="a reference, or an id")
    option("command", nargs=argparse.REMAINDER, help="in place of the image's command")
