"""`./dev install` and `uninstall`, as far as they need no systemd."""

import os
import subprocess
from pathlib import Path

import pytest

from devtools import install

pytestmark = pytest.mark.root


def test_a_version_is_on_the_disk_before_it_is_marked_as_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version, steps = tmp_path / "version", []

    def run(command: list[str], **_: object) -> None:
        steps.append((Path(command[0]).name, (version / "installed").exists()))
        if "--wheel-dir" in command:
            Path(command[command.index("--wheel-dir") + 1]).mkdir()

    monkeypatch.setattr(subprocess, "run", run)
    version.mkdir()
    install.make_version(version, "", [])
    assert steps[-1] == ("sync", False)
    assert (version / "installed").exists()


def test_a_link_is_on_the_disk_before_what_it_was_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link, synced = tmp_path / "current", []
    monkeypatch.setattr(
        os, "fsync", lambda fd: synced.append((os.readlink(f"/proc/self/fd/{fd}"), link.readlink()))
    )
    install.replace_link(link, Path("versions/new"))
    assert synced == [(str(tmp_path), Path("versions/new"))]
