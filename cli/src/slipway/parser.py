"""The command line's words.

Commands stand in groups, each in a module of its own, and only the group of the command that is wanted is built:
all of them take longer than a call.
"""

import argparse
import importlib
import os
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from slipway.exitcode import DAEMON

DESCRIPTION = "Images, containers and pods of a Slipway node."
EXAMPLES = """examples:
  slipway pull registry.example/app:1          with a bar for each layer
  slipway run --rm -it busybox sh              a shell in a new container
  slipway run -d --name web -p 8080:80 nginx   in the background, with a port
  slipway ps -a                                what there is, ended ones too
  slipway logs -f web                          follow its output
  slipway exec -it web sh                      a shell beside it
  slipway pods stop web                        its pod, with all that runs in it
  slipway why web                              why it died, or does not start
  slipway events --since 10m                   what happened on this node

`slipway COMMAND --help` has examples of each.
"""
GROUPS = {
    "containers": (
        "ps",
        "stop",
        "rm",
        "inspect",
        "stats",
        "logs",
        "wait",
        "kill",
        "top",
        "pause",
        "unpause",
        "port",
        "port-forward",
        "cp",
    ),
    "running": ("run", "create", "start", "restart", "attach", "update", "exec"),
    "pods": ("pods",),
    "images": (
        "image",
        "images",
        "pull",
        "tag",
        "untag",
        "history",
        "rmi",
        "push",
        "save",
        "load",
        "login",
        "logout",
    ),
    "trouble": ("why", "trace", "doctor", "ops"),
    "changes": ("diff", "commit"),
    "build": ("build",),
    "space": ("prune", "system"),
    "node": ("events", "status", "dashboard", "config", "completion", "man", "__complete"),
}
"""The commands of each module, in the order of --help; each has a function `add`."""
_GLOBAL = ("--run-dir", "-o", "--output", "--format")
"""Options that stand before the command and have a value."""
_SWITCHED: dict[str, Any] = {"true": argparse._StoreTrueAction, "false": argparse._StoreFalseAction}  # noqa: SLF001
_BUNDLED = re.compile(r"ignored explicit argument '(\w)")
"""What argparse says of short options in one word, of which it does not know one."""


class Parser(argparse.ArgumentParser):
    """Wrong words end as docker's do: a lower code could be one of the command that `run` or `exec` was to run."""

    def __init__(self, **options: Any) -> None:
        # The beginning of an option is none of docker's: --pid would be taken for --pids-limit.
        super().__init__(**options, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        if bundled := _BUNDLED.search(message):
            message = self._refusal([f"-{bundled[1]}"])
        brief = self.formatter_class(prog=f"{self.prog} [OPTIONS]")
        brief.add_usage(self.usage, self._get_positional_actions(), ())
        sys.stderr.write(" ".join(brief.format_help().split()) + "\n")
        self.exit(DAEMON, f"{self.prog}: {message}: see {self.prog} --help\n")

    def _refusal(self, words: Sequence[str]) -> str:
        from slipway.words.unoffered import refusal

        return refusal(self.prog.partition(" ")[2], words, self._option_string_actions)

    def _parse_optional(self, arg_string: str) -> Any:
        """As docker, take `--switch=false` and `--switch=true`."""
        name, _, value = arg_string.partition("=")
        action = self._option_string_actions.get(name)
        is_switch = isinstance(action, argparse._StoreTrueAction) or (  # noqa: SLF001 - it has no public name
            isinstance(action, argparse.BooleanOptionalAction) and not name.startswith("--no-")
        )
        if action is None or value not in _SWITCHED or not is_switch:
            return super()._parse_optional(arg_string)
        switch = _SWITCHED[value]([name], action.dest)
        found: Any = super()._parse_optional(name)
        return (
            [(switch, *found[0][1:])] if isinstance(found, list) else (switch, *found[1:])
        )  # by Python 3.12

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """As argparse does it, but the command that does not know a word says so, not the one above it."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(self._refusal(unknown))
        return found, unknown

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Say why docker's policies and templates are not here."""
        if "--restart" in action.option_strings and value != "no":
            from slipway.words.unoffered import WHY

            self.error(f"--restart {value} of docker is not offered: {WHY['--restart']}")
        if "--format" in action.option_strings and "{{" in value:
            from slipway.words.unoffered import TEMPLATES

            self.error(TEMPLATES)
        super()._check_value(action, value)

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        """In place of all commands name what is near to a wrong one, or what does the same as docker's."""
        if action.nargs == argparse.PARSER and arg_strings[0] not in (action.choices or ()):
            from slipway.words.unoffered import no_command

            top = [name for names in GROUPS.values() for name in names]
            self.error(no_command(arg_strings, action.choices or (), top))
        return super()._get_values(action, arg_strings)


class _Version(argparse.Action):
    """Print the version, which is looked for on the disk, only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from importlib.metadata import version

        sys.stdout.write(f"slipway {version('slipway')}\n")
        parser.exit()


def build(words: Sequence[str] = ()) -> argparse.ArgumentParser:
    """The commands that `words` may want, all when that is not clear.

    Each sets `run` to the module and function that does it.
    """
    parser: argparse.ArgumentParser = Parser(
        prog="slipway",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the command's version and end")
    run_dir = os.environ.get("SLIPWAY_RUN_DIR", "/run/slipway")  # noqa: TID251 - read once, here
    parser.add_argument("--run-dir", default=run_dir, help="where the node's sockets are (%(default)s)")
    parser.add_argument(
        "-o",
        "--output",
        "--format",
        choices=("table", "json"),
        help="a table, as on a terminal, or JSON, as in a pipe",
    )
    verbs = parser.add_subparsers(required=True, metavar="COMMAND")
    wanted = _verb(words)
    chosen = [module for module, names in GROUPS.items() if wanted in names] or list(GROUPS)
    for module in chosen:
        importlib.import_module(f"slipway.words.{module}").add(verbs)
    return parser


def _verb(words: Sequence[str]) -> str:
    """The first word that is neither a global option nor its value."""
    rest = iter(words)
    for word in rest:
        if word in _GLOBAL:
            next(rest, "")
        elif not word.startswith("-"):
            return word
    return ""
