"""completion, man: the command's words for a shell, which asks us each time it needs some, and for a reader."""

import asyncio
import sys
from argparse import Namespace

from slipway.completion.candidates import candidates
from slipway.completion.manpage import page
from slipway.output import render

BASH = """_slipway() {
  local line="${COMP_LINE:0:COMP_POINT}" words word last prefix
  read -ra words <<<"$line"
  [[ $line == *[[:space:]] ]] && words+=("")
  last="${words[-1]}"
  # Bash takes what stands before the last colon for a word of its own.
  prefix=""
  [[ $last == *:* && $COMP_WORDBREAKS == *:* ]] && prefix="${last%"${last##*:}"}"
  COMPREPLY=()
  while IFS=$'\\t' read -r word _; do
    [[ $word == *: ]] && compopt -o nospace 2>/dev/null
    COMPREPLY+=("${word#"$prefix"}")
  done < <("${words[0]}" __complete "${words[@]:1}" 2>/dev/null)
}
complete -o default -F _slipway slipway
"""
ZSH = """#compdef slipway
_slipway() {
  local line
  local -a found
  for line in "${(@f)$("${words[1]}" __complete "${(@)words[2,CURRENT]}" 2>/dev/null)}"; do
    [[ -n $line ]] && found+=("${${line%%$'\\t'*}//:/\\\\:}:${line#*$'\\t'}")
  done
  if (( $#found )); then _describe slipway found; else _files; fi
}
compdef _slipway slipway
"""
FISH = """function __slipway_complete
  set -l words (commandline -opc) (commandline -ct)
  set -l found ($words[1] __complete $words[2..] 2>/dev/null)
  if test (count $found) -gt 0
    printf '%s\\n' $found
  else
    __fish_complete_path (commandline -ct)
  end
end
complete -c slipway -f -a '(__slipway_complete)'
"""
SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}


async def completion(arguments: Namespace) -> int:
    """Print a shell's script."""
    sys.stdout.write(SCRIPTS[arguments.shell])
    return 0


async def man(_: Namespace) -> int:
    """Print the manual page."""
    sys.stdout.write(page())
    return 0


async def complete(arguments: Namespace) -> int:
    """Print what the last word may become, each with what it is after a tab."""
    found = await asyncio.to_thread(candidates, arguments.words, arguments.run_dir)
    sys.stdout.writelines(f"{word}\t{render.sentence(text)}\n" for word, text in found)
    return 0
