"""The command line's words for the node itself."""

import argparse

from slipway.verbs import Verbs, add_output, add_verb


def add(verbs: "Verbs[argparse.ArgumentParser]") -> None:
    """`events`, `status`, `completion`."""
    examples = """
        slipway events  what happens from now on
        slipway events --since 10m --filter kind=container  what happened to containers, and goes on
        slipway events --until-now --filter id=web --format json  one container's, and end"""
    events = add_verb(verbs, "events", "follow the lifecycle events of this node", "observe:events", examples)
    events.add_argument("--since", default="", metavar="10m", help="begin that long ago (s, m, h, d)")
    events.add_argument("--decode", action="store_true", help="show one event of NATS from standard input")
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
    examples = "slipway status && echo ready  its exit code is 1 when a condition is not met"
    add_output(add_verb(verbs, "status", "conditions and handlers of the node", "observe:status", examples))
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
    completion.add_argument("shell", choices=("bash", "zsh", "fish"))
    # What the scripts ask; its words are no options of its own.
    complete = verbs.add_parser("__complete", add_help=False, prefix_chars="\0")
    complete.set_defaults(run="completion:complete")
    complete.add_argument("words", nargs=argparse.REMAINDER)
