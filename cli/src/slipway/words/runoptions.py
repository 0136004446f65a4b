"""The options that make a container, of `run` and `create`: docker's, as far as they are offered."""

import argparse


def add_settings(verb: argparse.ArgumentParser) -> None:
    """What a container is made of."""
    option = verb.add_argument
    option("-i", "--interactive", action="store_true", help="give it our standard input")
    option("-t", "--tty", action="store_true", help="give it a terminal")
    option("--rm", action="store_true", help="it goes when it ends, with its pod and its logs")
    option("--name", default="", help="its name; one from the image's without this")
    _add_program(verb)
    _add_labels(verb)
    _add_files(verb)
    _add_network(verb)
    add_limits(verb)
    _add_rights(verb)
    option("--handler", "--runtime", default="", help="crun, runc or another of the node's settings")
    option(
        "--pull",
        choices=("always", "missing", "never"),
        default="missing",
        help="the image, before it is made (%(default)s)",
    )
    option("--restart", choices=("no",), default="no", help="no: nothing starts it again when it ends")
    option("image", help="a reference, or an id")
    command = option("command", nargs=argparse.REMAINDER, help="in place of the image's command")
    command.required = False  # argparse calls it missing where the image is


def _several(verb: argparse.ArgumentParser, *names: str, metavar: str, text: str) -> None:
    """An option that may be given again."""
    verb.add_argument(*names, action="append", default=[], metavar=metavar, help=text)


def add_variables(verb: argparse.ArgumentParser) -> None:
    """Variables, by option and by file."""
    _several(verb, "-e", "--env", metavar="KEY=VALUE", text="a variable; KEY alone passes ours")
    _several(verb, "--env-file", metavar="FILE", text="a file with a variable on each line")


def _add_program(verb: argparse.ArgumentParser) -> None:
    option = verb.add_argument
    add_variables(verb)
    option("-w", "--workdir", default="", help="where it starts, in place of the image's")
    option("--entrypoint", default="", help="in place of the image's")
    option("--stop-signal", default="", metavar="SIGNAL", help="what `stop` sends, in place of the image's")


def _add_labels(verb: argparse.ArgumentParser) -> None:
    _several(verb, "-l", "--label", metavar="KEY=VALUE", text="a label, for filters")
    _several(verb, "--label-file", metavar="FILE", text="a file with a label on each line")
    _several(verb, "--annotation", metavar="KEY=VALUE", text="an annotation, for the OCI runtime")


def _add_files(verb: argparse.ArgumentParser) -> None:
    _several(verb, "-v", "--volume", metavar="HOST:CONTAINER[:ro]", text="a path of the node, also ./DIR")
    mount = "type=bind|tmpfs|image,source=A,target=B[,readonly]"
    _several(verb, "--mount", metavar=mount, text="a path of the node, memory or an image")
    _several(verb, "--tmpfs", metavar="PATH[:OPTIONS]", text="a file system in memory, such as /run:size=64m")
    _several(verb, "--device", metavar="HOST[:CONTAINER][:rwm]", text="a device of the node")
    verb.add_argument("--read-only", action="store_true", help="no writing to the root filesystem")


def _add_network(verb: argparse.ArgumentParser) -> None:
    option = verb.add_argument
    _several(verb, "-p", "--publish", metavar="[IP:]HOST:CONTAINER[/PROTOCOL]", text="a port of the node")
    option("-h", "--hostname", default="", help="of its pod")
    option(
        *("--network", "--net"),
        choices=("pod", "host", "none"),
        default="pod",
        help="of its own, the node's, or only a loopback",
    )
    _several(verb, "--dns", metavar="IP", text="a name server, in place of the node's")
    _several(verb, "--dns-search", metavar="DOMAIN", text="where short names are looked for")
    _several(verb, "--dns-option", metavar="OPTION", text="an option of resolv.conf")
    _several(verb, "--add-host", metavar="HOST:IP", text="a line for its /etc/hosts")
    option("--pid", choices=("host",), default="", help="see all processes of the node")
    option("--ipc", choices=("host",), default="", help="share the node's shared memory")
    _several(verb, "--sysctl", metavar="NAME=VALUE", text="a setting of its namespaces")


def add_limits(verb: argparse.ArgumentParser) -> None:
    """What a container may use."""
    option = verb.add_argument
    option("-m", "--memory", default="", metavar="256m", help="limit of memory")
    option("--memory-swap", default="", metavar="512m", help="limit of memory and swap; -1 for none")
    option("--cpus", type=float, default=0.0, metavar="1.5", help="limit of processors")
    option(
        "-c", "--cpu-shares", type=int, default=0, metavar="N", help="weight against others; 1024 is usual"
    )
    option("--cpuset-cpus", default="", metavar="0-3,5", help="the processors that it may use")
    option("--cpuset-mems", default="", metavar="0", help="the memory nodes that it may use")
    option("--pids-limit", type=int, default=None, metavar="N", help="limit of processes; -1 for none")


def _add_rights(verb: argparse.ArgumentParser) -> None:
    option = verb.add_argument
    user = "UID[:GID]|NAME"
    option("-u", "--user", default="", metavar=user, help="who it runs as, in place of the image's")
    _several(verb, "--group-add", metavar="GID", text="one more group of it")
    _several(verb, "--cap-add", metavar="NAME", text="a capability that it has beside the usual, or ALL")
    _several(verb, "--cap-drop", metavar="NAME", text="one that it has not, or ALL")
    security = "no-new-privileges, seccomp=unconfined or a profile's file, apparmor=PROFILE"
    _several(verb, "--security-opt", metavar="OPTION", text=security)
    _several(
        verb, "--ulimit", metavar="NAME=SOFT[:HARD]", text="a limit of its processes, such as nofile=1024"
    )
    option(
        *("--oom-score-adj",),
        type=int,
        default=0,
        metavar="N",
        help="how soon the kernel kills it for memory, -1000 to 1000",
    )
    option("--privileged", action="store_true", help="with all that root may do on the node")


def add_keys(verb: argparse.ArgumentParser) -> None:
    """The keys that leave a terminal."""
    verb.add_argument(
        "--detach-keys", default="ctrl-p,ctrl-q", metavar="KEYS", help="what leaves a terminal (%(default)s)"
    )
