"""The manual page of the command, from its parser: every command with its options and examples."""

import argparse
from collections.abc import Iterator

from slipway.completion.candidates import positionals, subcommands
from slipway.parser import build

HEAD = """.TH SLIPWAY 1 "" Slipway "User commands"
.SH NAME
slipway \\- images, containers and pods of a Slipway node
.SH SYNOPSIS
.B slipway
[\\fIOPTIONS\\fR] \\fICOMMAND\\fR [\\fIARGUMENTS\\fR]
"""
TAIL = """.SH EXIT STATUS
The exit code of the process for run, exec, start \\-a and attach; 125 when the command line is wrong or run and exec failed
before there was a process, 126 and 127 when it could not be run or was not there, 130 after an interrupt, else 1.
.SH ENVIRONMENT
.TP
.B SLIPWAY_RUN_DIR
Where the node's sockets are, as \\-\\-run\\-dir.
.TP
.B NO_COLOR
No colours on a terminal.
.SH SEE ALSO
.BR crictl (1),
.BR crun (1)
"""


def page() -> str:
    """The page, as roff."""
    parser = build()
    parts = [HEAD, ".SH OPTIONS\n", *_arguments(parser), ".SH COMMANDS\n"]
    for name, verb in subcommands(parser).items():
        parts += _command(name, verb)
    return "".join([*parts, ".SH EXAMPLES\n", *_examples(parser), TAIL])


def _command(name: str, verb: argparse.ArgumentParser) -> Iterator[str]:
    yield f".SS {_escaped(name)}\n"
    usage = " ".join(verb.format_usage().split()).removeprefix("usage: ")
    yield f"\\fB{_escaped(usage)}\\fR\n.PP\n{_escaped(verb.description or '')}\n"
    yield from _arguments(verb)
    yield from _examples(verb)
    for inner, below in subcommands(verb).items():
        yield from _command(f"{name} {inner}", below)


def _arguments(parser: argparse.ArgumentParser) -> Iterator[str]:
    own = [a for a in positionals(parser) if a.help and a.nargs != argparse.PARSER]
    for action in [*own, *(a for a in parser._actions if a.option_strings)]:  # noqa: SLF001 - argparse tells it in no public way
        words = ", ".join(action.option_strings) or str(action.metavar or action.dest)
        if action.option_strings and action.nargs != 0:
            words += f" {action.metavar or '|'.join(map(str, action.choices or [action.dest.upper()]))}"
        text = (action.help or "") % {"default": action.default}
        yield f".TP\n\\fB{_escaped(words)}\\fR\n{_escaped(text)}\n"


def _examples(parser: argparse.ArgumentParser) -> Iterator[str]:
    if parser.epilog:
        yield f".PP\n.nf\n{_escaped(parser.epilog.removeprefix('examples:').strip(chr(10)))}\n.fi\n"


def _escaped(text: str) -> str:
    """Text that roff takes as it is."""
    plain = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga")
    return "\n".join(f"\\&{line}" if line.startswith(".") else line for line in plain.splitlines())
