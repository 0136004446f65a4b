"""slipway cp against containers that run, have ended, and cheat."""

import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.node import TestNode

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(180)]


def piped(node: TestNode, *words: str, body: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
    command = [str(Path(sys.executable).parent / "slipway"), "--run-dir", str(node.run_dir), *words]
    return subprocess.run(command, input=body, capture_output=True, timeout=60, check=False)


@pytest.fixture
def box(node: TestNode, busybox: str) -> Iterator[str]:
    assert node.slipway("run", "-d", "--name", "box", busybox, "sleep", "1000").returncode == 0
    yield "box"
    assert node.slipway("rm", "-f", "box").returncode == 0


def test_files_and_directories_go_in_and_out(node: TestNode, box: str, tmp_path: Path) -> None:
    site = tmp_path / "site"
    (site / "deep").mkdir(parents=True)
    (site / "deep" / "page").write_text("text")
    (site / "link").symlink_to("deep/page")
    (site / "run.sh").write_text("#!/bin/sh\necho ran\n")
    (site / "run.sh").chmod(0o755)
    os.chown(site / "deep" / "page", 1234, 1234)
    assert node.slipway("cp", str(site), f"{box}:/srv").returncode == 0  # /srv is made
    assert node.slipway("exec", box, "/srv/run.sh").stdout == "ran\n"
    listed = node.slipway("exec", box, "stat", "-c", "%u %N", "/srv/deep/page", "/srv/link").stdout
    assert listed.splitlines()[0].startswith("0 ")
    assert "deep/page" in listed.splitlines()[1]
    assert node.slipway("cp", f"{site}/.", f"{box}:/tmp").returncode == 0  # its contents
    assert node.slipway("cp", "-a", str(site), f"{box}:/tmp").returncode == 0  # it itself, with its owners
    owner = node.slipway("exec", box, "stat", "-c", "%u", "/tmp/deep/page", "/tmp/site/deep/page").stdout
    assert owner == "0\n1234\n"
    back = tmp_path / "back"
    copied = node.slipway("cp", f"{box}:/srv", str(back))
    assert (copied.returncode, "copied" in copied.stderr) == (0, True)
    assert (back / "deep" / "page").read_text() == "text"
    assert (back / "link").is_symlink()
    assert node.slipway("cp", "-q", "-L", f"{box}:/srv/link", f"{back}/plain").stderr == ""
    assert ((back / "plain").is_symlink(), (back / "plain").read_text()) == (False, "text")


def test_links_and_slashes_mean_what_they_do_to_docker(node: TestNode, box: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    made = "mkdir -p /d/real; ln -s real /d/near; ln -s /d/real /d/far"
    assert node.slipway("exec", box, "sh", "-c", made).returncode == 0
    for where in ("/d/near", "/d/far/second", "/d/near/../third"):  # a link to a directory is one
        assert node.slipway("cp", str(tmp_path / "file"), f"{box}:{where}").returncode == 0
    listed = node.slipway("exec", box, "sh", "-c", "cd /d; ls real; ls; readlink near").stdout.split()
    assert listed == ["file", "second", "far", "near", "real", "third", "real"]
    slashed = node.slipway("cp", f"{tmp_path}/file/", f"{box}:/d")
    assert (slashed.returncode, "Not a directory" in slashed.stderr) == (1, True)
    for source, target in (
        ("near", "link"),
        ("near/", "followed"),
        ("real/.", "contents"),
        ("real", "itself"),
    ):
        assert node.slipway("cp", f"{box}:/d/{source}", f"{tmp_path}/{target}").returncode == 0
    assert (tmp_path / "link").is_symlink()
    for name in ("followed", "contents", "itself"):
        assert sorted(path.name for path in (tmp_path / name).iterdir()) == ["file", "second"]
    (tmp_path / "there").mkdir()
    assert node.slipway("cp", f"{box}:/d/real", f"{tmp_path}/there/").returncode == 0
    assert (tmp_path / "there" / "real" / "file").read_text() == "text"


def test_tar_streams_go_both_ways(node: TestNode, box: str) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        info = tarfile.TarInfo("given/file")
        info.size, info.uid, info.mode = 3, 77, 0o640
        archive.addfile(info, io.BytesIO(b"tar"))
    made = piped(node, "exec", box, "mkdir", "-p", "/in/given")
    assert made.returncode == 0
    assert piped(node, "cp", "-", f"{box}:/in", body=out.getvalue()).returncode == 0
    back = piped(node, "cp", f"{box}:/in/given", "-")
    with tarfile.open(fileobj=io.BytesIO(back.stdout)) as archive:
        found = {member.name: member for member in archive.getmembers()}
        assert set(found) == {"given", "given/file"}
        assert (found["given/file"].uid, found["given/file"].mode) == (77, 0o640)
        given = archive.extractfile("given/file")
        assert given is not None
        assert given.read() == b"tar"


def test_a_container_that_has_ended_keeps_its_files(node: TestNode, busybox: str, tmp_path: Path) -> None:
    ran = node.slipway("run", "--name", "ended", busybox, "sh", "-c", "echo last >/result")
    assert ran.returncode == 0
    assert node.slipway("cp", "ended:/result", str(tmp_path)).returncode == 0
    assert (tmp_path / "result").read_text() == "last\n"
    (tmp_path / "more").write_text("more")
    assert node.slipway("cp", str(tmp_path / "more"), "ended:/").returncode == 0
    assert piped(node, "cp", "ended:/more", "-").stdout != b""
    assert node.slipway("rm", "ended").returncode == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("box:/nosuch", "/tmp"), "box:/nosuch: No such file"),
        (("box:/nosuch", "-"), "box:/nosuch: No such file"),
        (("/nosuch", "box:/"), "/nosuch: No such file"),
        (("box:/bin", "box:/tmp"), "CONTAINER:PATH"),
        (("/etc", "/tmp"), "CONTAINER:PATH"),
        (("/etc/hostname", "box:/no/such/dir"), "no such directory '/no/such'"),
        (("/etc/hostname", "box:/new/"), "no such directory"),
        (("/etc", "box:/etc/passwd"), "is a file"),
        (("-", "box:/etc/passwd"), "is not"),
        (("nosuch:/x", "/tmp"), "no container 'nosuch'"),
    ],
)
def test_what_cannot_be_copied_is_told(node: TestNode, box: str, words: tuple[str, str], told: str) -> None:
    refused = node.slipway("cp", *words)
    assert (refused.returncode, told in refused.stderr) == (1, True), refused.stderr
    assert len(refused.stderr.splitlines()) == 1


def test_a_container_that_swaps_directories_for_links_gets_nothing_of_ours(
    node: TestNode, busybox: str, tmp_path: Path
) -> None:
    """CVE-2018-15664: while /work is copied, it is a directory at one moment and a link to / at the next."""
    marker = tmp_path / "node-only"
    marker.write_text("secret of the node")
    swap = (
        f"mkdir -p /work{tmp_path}; echo mine >/work{tmp_path}/node-only;"
        " while :; do mv /work /kept; ln -s / /work; rm /work; mv /kept /work; done"
    )
    assert node.slipway("run", "-d", "--name", "swap", busybox, "sh", "-c", swap).returncode == 0
    given = tmp_path / "given"
    given.write_text("given")
    out = tmp_path / "out"
    out.mkdir()
    for number in range(12):
        node.slipway("cp", f"swap:/work{marker}", str(out / f"{number}"))
        node.slipway("cp", str(given), f"swap:/work{marker}")
    copied = node.slipway("cp", f"swap:/work{tmp_path}", str(out))
    assert marker.read_text() == "secret of the node"
    texts = [path.read_text() for path in out.rglob("*") if path.is_file()]
    assert copied.returncode in (0, 1)
    assert "secret of the node" not in texts
    assert node.slipway("rm", "-f", "swap").returncode == 0
