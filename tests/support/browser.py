"""A real Chromium for tests of the dashboard, and where they keep what it shows."""

import shutil
from pathlib import Path

import pytest

from devtools.chromium import PROGRAM

NEEDS_CHROMIUM = pytest.mark.skipif(not shutil.which(PROGRAM), reason=f"{PROGRAM} is not installed")
SHOTS = Path(__file__).parents[2] / "build" / "screenshots"
