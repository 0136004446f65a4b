"""The command line's words for the node itself."""

import argparse

from slipway.words.verb import Verbs, add_output, add_verb

SERVICES = ("imaged", "snapshotd", "runtimed", "shimd", "crid", "opsd")


def add(verbs: "Verbs[argparse.ArgumentParser]") -> None:
    """`events`, `status`, `dashboard`, `config`, `completion`."""
    examples = """
        slipway events  what happens from now on
        slipway events --since 10m --filter kind=container  what happened to containers, and goes on
        slipway events --until-now --filter id=web --format json  one container's, and end
        slipway events --since 1h --until 30m  what happened then"""
    when = "a time such as 2026-01-31T12:00:00Z, or an age such as 10m"
    events = add_verb(verbs, "events", "follow the lifecycle events of this node", "observe:events", examples)
    events.add_argument("--since", default="", metavar="TIME", help=f"begin then: {when}")
    events.add_argument("--until", default="", metavar="TIME", help="end then, and begin with all there is")
    events.add_argument("--decode", action="store_true", help="show one event of NATS from standard input")
    events.add_argument("--until-now", action="store_true", help="end with what there is, do not follow")
    events.add_argument(
        *("-f", "--filter"),
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="kind=container, verb=exited, id=..., node=...",
    )
    events.add_argument("--nats", default="", help="another NATS than the node's")
    add_output(events)
    examples = "slipway status && echo ready  its exit code is 1 when a condition is not met"
    add_output(add_verb(verbs, "status", "conditions and handlers of the node", "observe:status", examples))
    examples = """
        slipway dashboard  open what it prints in a browser of this machine
        ssh -L 9440:127.0.0.1:9440 root@NODE slipway dashboard  or of another: leave it running while you look"""
    text = "print the link to the dashboard, with the token for logs, processes and actions"
    add_verb(verbs, "dashboard", text, "dashboard:dashboard", examples)
    _config(verbs)
    examples = """
        eval "$(slipway completion bash)"  in ~/.bashrc
        eval "$(slipway completion zsh)"  in ~/.zshrc, after compinit
        slipway completion fish > ~/.config/fish/completions/slipway.fish  for fish"""
    completion = add_verb(
        verbs,
        "completion",
        "completion for a shell: commands, options, and names of what is here",
        "completion:completion",
        examples,
    )
    completion.add_argument("shell", choices=("bash", "zsh", "fish"), help="whose script to print")
    examples = """
        slipway man | man -l -  read it
        slipway man > /usr/local/share/man/man1/slipway.1  install it"""
    add_verb(verbs, "man", "the manual page, for man", "completion:man", examples)
    # What the scripts ask; its words are no options of its own.
    complete = verbs.add_parser("__complete", add_help=False, prefix_chars="\0")
    complete.set_defaults(verb="slipway completion")
    complete.set_defaults(run="completion:complete")
    complete.add_argument("words", nargs=argparse.REMAINDER)


def _config(verbs: "Verbs[argparse.ArgumentParser]") -> None:
    examples = """
        slipway config show --changed  what differs from the defaults, and where it is set
        slipway config validate runtimed /etc/slipway/runtimed.toml  before a restart"""
    config = add_verb(
        verbs, "config", "the settings of the services, and whether they are valid", "config:show", examples
    )
    config.set_defaults(service=[], changed=False)
    add_output(config)
    inner = config.add_subparsers(metavar="COMMAND")
    examples = """
        slipway config show  all of all services
        slipway config show runtimed crid --changed  what was set, of two of them"""
    show = add_verb(
        inner, "show", "settings with values and sources, without secrets", "config:show", examples
    )
    show.add_argument("--changed", action="store_true", help="only what is not the default")
    add_output(show)
    show.add_argument("service", nargs="*", metavar="SERVICE", help=", ".join(SERVICES))
    examples = """
        slipway config validate  what the services were started with
        slipway config validate imaged new.toml  a file, on top of it"""
    validate = add_verb(inner, "validate", "whether settings would be taken", "config:validate", examples)
    validate.add_argument("service", nargs="?", default="", metavar="SERVICE", help=", ".join(SERVICES))
    validate.add_argument(
        "file", nargs="?", default="", metavar="FILE", help="a TOML file that it is to take"
    )
