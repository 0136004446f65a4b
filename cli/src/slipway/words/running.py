"""The command line's words for running something."""

import argparse

from slipway.words.containers import add_container, add_containers, add_grace
from slipway.words.runoptions import add_keys, add_limits, add_settings, add_variables
from slipway.words.verb import Verbs, add_verb


def add(verbs: "Verbs[argparse.ArgumentParser]") -> None:
    """All verbs that make or run something."""
    _run(verbs)
    _start(verbs)
    _exec(verbs)


def _run(verbs: "Verbs[argparse.ArgumentParser]") -> None:
    examples = """
        slipway run --rm -it busybox sh  a shell, gone when it ends
        slipway run -d --name web -p 8080:80 nginx  in the background, with a port
        slipway run -d --rm job:1  in the background, gone when it ends
        slipway run --rm -v /srv/data:/data:ro -m 256m --cpus 1.5 app:1 work  with files and limits
        slipway run --rm --network host busybox wget -O- localhost  in the node's own network"""
    text = "run a container in a pod of its own"
    run = add_verb(verbs, "run", text, "run:run", examples, h_is_help=False)
    run.add_argument("-d", "--detach", action="store_true", help="print the id and leave it running")
    add_keys(run)
    add_settings(run)
    examples = """
        slipway create --name job app:1 work  it does not run yet
        slipway start -a job  now it does"""
    text = "make a container in a pod of its own"
    create = add_verb(verbs, "create", text, "run:create", examples, h_is_help=False)
    create.set_defaults(detach=False)
    add_settings(create)


def _start(verbs: "Verbs[argparse.ArgumentParser]") -> None:
    examples = """
        slipway start web  one that was made, or has ended
        slipway start -ai job  with our streams; its exit code is ours"""
    start = add_verb(verbs, "start", "run containers that were made, or have ended", "run:start", examples)
    start.add_argument("-a", "--attach", action="store_true", help="show its output, end as it ends")
    start.add_argument("-i", "--interactive", action="store_true", help="give it our standard input")
    add_keys(start)
    add_containers(start)
    examples = "slipway restart -t 3 web  its stop signal, SIGKILL after 3 s, and a start with what it wrote"
    restart = add_verb(verbs, "restart", "stop containers and run them once more", "run:restart", examples)
    add_grace(restart)
    add_containers(restart)
    examples = """
        slipway attach web  Ctrl-C goes to it, and Ctrl-P Ctrl-Q leaves a terminal
        slipway attach --no-stdin web  only look"""
    attach = add_verb(verbs, "attach", "a running container's streams, from now on", "run:attach", examples)
    attach.add_argument("--no-stdin", action="store_true", help="do not give it our standard input")
    attach.add_argument(
        "--sig-proxy",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="signals that we get are for it, and do not end us",
    )
    add_keys(attach)
    add_container(attach)
    examples = """
        slipway update -m 512m web  more memory
        slipway update --cpus 0.5 --pids-limit 100 web db  less of the rest, for both"""
    update = add_verb(verbs, "update", "give containers other limits", "update:update", examples)
    add_limits(update)
    add_containers(update)


def _exec(verbs: "Verbs[argparse.ArgumentParser]") -> None:
    examples = """
        slipway exec web cat /etc/hostname  its exit code is ours
        slipway exec -it web sh  a shell
        slipway exec -u root -w /srv -e MODE=test web ./check  as somebody, somewhere, with a variable
        slipway exec -d web sh -c 'sleep 60; touch /tmp/late'  in the background"""
    execute = add_verb(verbs, "exec", "run a command in a running container", "execute:execute", examples)
    execute.add_argument("-i", "--interactive", action="store_true", help="give it our standard input")
    execute.add_argument("-t", "--tty", action="store_true", help="give it a terminal")
    execute.add_argument(
        "-d", "--detach", action="store_true", help="leave it running; its output is dropped"
    )
    execute.add_argument(
        "-u", "--user", default="", metavar="USER[:GROUP]", help="who it runs as, by name or number"
    )
    execute.add_argument("-w", "--workdir", default="", help="where it starts")
    add_variables(execute)
    execute.add_argument(
        "--privileged", action="store_true", help="with all capabilities; the container stays as it is"
    )
    add_keys(execute)
    add_container(execute)
    execute.add_argument("command", nargs=argparse.REMAINDER, help="the command and its arguments")
