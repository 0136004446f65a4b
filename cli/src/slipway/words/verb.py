"""How a command is added to the parser."""

import argparse

Verbs = argparse._SubParsersAction  # noqa: SLF001 - argparse has no public name for it


def add_verb(
    verbs: "Verbs[argparse.ArgumentParser]",
    name: str,
    text: str,
    where: str,
    examples: str = "",
    *,
    h_is_help: bool = True,
) -> argparse.ArgumentParser:
    """Add a command.

    Args:
        verbs: what to add it to.
        name: its word.
        text: what it does, in a line.
        where: the module and function that does it.
        examples: lines of a command and what it is for, with two spaces between.
        h_is_help: it has no other option of this letter.
    """
    verb = verbs.add_parser(
        name,
        help=text,
        description=text[:1].upper() + text[1:] + ".",
        epilog=f"examples:\n{_aligned(examples)}" if examples else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=h_is_help,
    )
    if not h_is_help:
        verb.add_argument("--help", action="help", help="show this help message and exit")
    verb.set_defaults(run=where, verb=verb.prog)
    return verb


def add_output(verb: argparse.ArgumentParser) -> None:
    """The option for a table or JSON, also after the command's name."""
    verb.add_argument(
        "-o",
        "--output",
        "--format",
        choices=("table", "json"),
        default=argparse.SUPPRESS,
        help="a table, as on a terminal, or JSON, as in a pipe",
    )


def _aligned(examples: str) -> str:
    pairs = [line.strip().partition("  ")[::2] for line in examples.strip().splitlines()]
    width = max(len(command) for command, _ in pairs) + 2
    return "".join(f"  {command:<{width}} {text.strip()}".rstrip() + "\n" for command, text in pairs)
