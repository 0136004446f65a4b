"""--help and the manual page: every command teaches itself."""

import argparse
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from slipway import parser
from slipway.completion.candidates import positionals, subcommands
from slipway.completion.manpage import page


def commands(
    above: argparse.ArgumentParser, name: str = "slipway"
) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for word, verb in subcommands(above).items():
        yield f"{name} {word}", verb
        yield from commands(verb, f"{name} {word}")


COMMANDS = dict(commands(parser.build()))


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_says_what_it_does_and_shows_examples(name: str) -> None:
    verb = COMMANDS[name]
    assert verb.description
    assert verb.epilog, "no examples"
    assert "  slipway " in verb.epilog


@pytest.mark.parametrize("name", COMMANDS)
def test_each_option_and_argument_is_explained(name: str) -> None:
    verb = COMMANDS[name]
    own = [a for a in verb._actions if a.option_strings] + positionals(verb)
    assert [a.dest for a in own if not a.help and a.nargs != argparse.PARSER] == []


def test_the_page_has_each_command_and_no_warning_of_groff() -> None:
    text = page()
    for name in COMMANDS:
        assert f".SS {name.removeprefix('slipway ')}\n".replace("-", "\\-") in text
    if shutil.which("groff") is None:
        pytest.skip("groff-base is not installed")
    done = subprocess.run(
        ["groff", "-man", "-Tutf8", "-ww", "-z"],
        input=text,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stderr == ""
