"""`./dev install` and `uninstall`, as far as they need no systemd."""

import os
import subprocess
from pathlib import Path

import pytest

from common.errors import FailedPreconditionError
from devtools import install
from node import running

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


@pytest.mark.parametrize("place", ["SHIMS", "PAUSES", "NETWORKS"])
def test_nothing_is_removed_that_pods_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    for name in ("RUN", "SHIMS", "PAUSES", "NETWORKS"):
        monkeypatch.setattr(install, name, tmp_path / name)
    (tmp_path / place / "p-1").mkdir(parents=True)
    with pytest.raises(install.InstallError, match="p-1 for one: remove their pods"):
        install.uninstall(tmp_path, purge=False, force=False)


def test_nothing_is_removed_below_a_node_that_up_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install, "RUN", tmp_path)
    lock = running.lock(str(tmp_path))
    with pytest.raises(FailedPreconditionError, match="slipway-node down"):
        install.uninstall(tmp_path, purge=False, force=True)
    os.close(lock)


def test_a_link_is_removed_with_what_it_points_to(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    (real / "blobs").mkdir(parents=True)
    link.symlink_to(real)
    install.remove_tree(link)
    assert not link.is_symlink()
    assert not real.exists()


def test_what_stays_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = tmp_path / "data/kept"
    kept.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", kept], check=True)
    try:
        install.remove_tree(tmp_path / "data")
    finally:
        subprocess.run(["umount", kept], check=True)
    assert f"{tmp_path}/data stays: " in capsys.readouterr().err
