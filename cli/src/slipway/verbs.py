"""How a command is added to the parser."""

import argparse

Verbs = argparse._SubParsersAction  # noqa: SLF001 - argparse has no public name for it


def add_verb(
    verbs: "Verbs[argparse.ArgumentParser]", name: str, text: str, where: str
) -> argparse.ArgumentParser:
    """Add a command; `where` is the module and function that does it."""
    verb = verbs.add_parser(name, help=text, description=text)
    verb.set_defaults(run=where)
    return verb


def add_output(verb: argparse.ArgumentParser) -> None:
    """The option for a table or JSON, also after the command's name."""
    verb.add_argument("-o", "--output", choices=("table", "json"), default=argparse.SUPPRESS)
