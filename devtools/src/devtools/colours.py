"""Colours, for who reads on a terminal."""

import sys
from typing import TextIO

RED, GREEN, CYAN = 31, 32, 36


def coloured(text: str, colour: int, where: TextIO | None = None) -> str:
    """Text for stdout, or another stream, in a colour where that is shown."""
    return f"\033[{colour}m{text}\033[0m" if (where or sys.stdout).isatty() else text
