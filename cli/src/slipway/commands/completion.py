"""completion: the command's words, for a shell."""

import argparse
import shlex
import sys
from argparse import Namespace

from slipway.parser import build

SCRIPT = """_slipway() {{
  local verb="" word
  for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
    case "$word" in {verbs}) verb="$word"; break ;; esac
  done
  case "$verb" in
{cases}
  esac
  mapfile -t COMPREPLY < <(compgen -W "$words" -- "${{COMP_WORDS[COMP_CWORD]}}")
}}
complete -o default -F _slipway slipway
"""


async def completion(_: Namespace) -> int:
    """Print a script for bash."""
    parser = build()
    verbs = _verbs(parser)
    words = {"": [*verbs, *_options(parser)]}
    words |= {name: [*_verbs(verb), *_options(verb)] for name, verb in verbs.items()}
    cases = "\n".join(f'    "{name}") local words={shlex.quote(" ".join(w))} ;;' for name, w in words.items())
    sys.stdout.write(SCRIPT.format(verbs="|".join(verbs), cases=cases))
    return 0


def _verbs(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:  # noqa: SLF001 - argparse tells its words in no public way
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 - as above
            return dict(action.choices)
    return {}


def _options(parser: argparse.ArgumentParser) -> list[str]:
    return [word for word in parser._option_string_actions if word.startswith("--")]  # noqa: SLF001 - as above
