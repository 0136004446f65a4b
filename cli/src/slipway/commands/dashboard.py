"""dashboard: the link to the page of this node."""

import sys
from argparse import Namespace

from common.clients import opsd


async def dashboard(arguments: Namespace) -> int:
    """Print the link; its token is the part that browsers keep to themselves."""
    sys.stdout.write(opsd.link(arguments.run_dir) + "\n")
    return 0
