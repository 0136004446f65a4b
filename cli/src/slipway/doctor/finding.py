"""What a check finds, and the machine that it looks at."""

import os
import subprocess
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

PROGRAM_S = 10.0


class Level(StrEnum):
    """How bad it is; FAIL is what makes the command fail."""

    OK = "ok"
    NOTE = "note"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Finding:
    """One thing, how it is, and what to do about it."""

    name: str
    level: Level
    text: str
    fix: str = ""


@dataclass(frozen=True)
class Machine:
    """Where to look; `root` is / but for tests of what no machine at hand has."""

    run_dir: str
    data_dir: str
    cni_dir: str
    plugin_dirs: tuple[str, ...] = ("/opt/cni/bin", "/usr/lib/cni")
    snapshotter: str = "overlayfs"
    in_containers: bool = False
    """The node's programs are those of its images."""
    root: Path = Path("/")
    path: tuple[str, ...] = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")

    def at(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    def read(self, path: str) -> str:
        """A small file; empty when it cannot be read."""
        try:
            return self.at(path).read_text(errors="replace").strip()
        except OSError:
            return ""

    def number(self, path: str) -> int | None:
        text = self.read(path)
        return int(text) if text.lstrip("-").isdigit() else None

    def said(self, program: str, *arguments: str) -> str:
        """What a program prints; empty when it does not start or takes long."""
        command = [program, *arguments]
        try:
            return subprocess.run(
                command, capture_output=True, text=True, timeout=PROGRAM_S, check=False
            ).stdout
        except (OSError, subprocess.TimeoutExpired):
            return ""

    def program(self, name: str) -> str:
        """Where a program is; empty when it is not installed."""
        found = (self.at(f"{directory}/{name}") for directory in self.path)
        return next((str(path) for path in found if os.access(path, os.X_OK)), "")
