"""Archives of images between the slipway command, skopeo, umoci and docker: digests stay, and what comes runs."""

import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from devtools import engine
from devtools.registry import ARCHITECTURE, Registry, busybox_layer
from tests.support.node import TestNode

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(120)]
POLICY = ("--insecure-policy",)


def tool(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def shell(node: TestNode, script: str) -> str:
    """A pipeline of slipway commands; `slipway` is this node's."""
    command = f"{Path(sys.executable).parent / 'slipway'} --run-dir {node.run_dir}"
    whole = f'set -o pipefail; slipway() {{ {command} "$@"; }}; {script}'
    return tool("bash", "-c", whole)


Image = dict[str, Any]


def facts(node: TestNode, name: str) -> Image:
    done = node.slipway("image", "inspect", name)
    assert done.returncode == 0, done.stderr
    found: Image = json.loads(done.stdout)[0]
    return found


def runs(node: TestNode, name: str) -> None:
    done = node.slipway("run", "--rm", "--network", "host", name, "echo", "it runs")
    assert (done.returncode, done.stdout) == (0, "it runs\n"), done.stderr


@pytest.fixture
def pulled(node: TestNode, busybox: str) -> Iterator[Image]:
    """The image, pulled and named app:1; the test's images are gone afterwards."""
    assert node.slipway("pull", busybox).returncode == 0
    assert node.slipway("tag", busybox, "app:1").returncode == 0
    yield facts(node, "app:1")
    for image in json.loads(node.slipway("images", "-o", "json").stdout):
        node.slipway("rmi", "-f", image["id"])


def test_skopeo_reads_what_is_saved(node: TestNode, pulled: Image, shop: Registry, tmp_path: Path) -> None:
    saved = tmp_path / "app.tar"
    assert node.slipway("save", "-o", str(saved), "app:1").returncode == 0
    archive = f"oci-archive:{saved}"
    # it was pulled by an index, of which all is here
    top = pulled["RepoDigests"][0].partition("@")[2]
    assert json.loads(tool("skopeo", "inspect", archive))["Digest"] == top
    there = f"docker://{shop.address}/back/app:1"
    tool("skopeo", *POLICY, "copy", "--dest-tls-verify=false", archive, there)
    back = json.loads(tool("skopeo", "inspect", "--tls-verify=false", there))
    assert back["Digest"] == pulled["Manifest"]  # skopeo copies this platform's manifest only
    docker = f"docker-archive:{saved}:docker.io/library/app:1"
    config = json.loads(tool("skopeo", "inspect", "--config", docker))
    assert config["rootfs"]["diff_ids"] == pulled["RootFS"]["Layers"]


def test_all_platforms_come_and_go_as_one_digest(
    node: TestNode, pulled: Image, shop: Registry, tmp_path: Path
) -> None:
    config = {"Env": ["PATH=/bin"], "Cmd": ["sh"]}
    wide = shop.push("wide/app", [busybox_layer()], config, architectures=(ARCHITECTURE, "s390x"))
    digest = json.loads(tool("skopeo", "inspect", "--tls-verify=false", f"docker://{wide}"))["Digest"]
    assert node.slipway("pull", wide).returncode == 0
    pushed = node.slipway("push", wide, f"{shop.address}/wide/one:1")
    told = "one platform was pushed, without linux/s390x: `slipway pull --all-platforms`"
    assert (pushed.returncode, pushed.stderr) == (0, f"slipway: {told}\n")
    assert not pushed.stdout.endswith(f"@{digest}\n")
    made = node.slipway("image", "index", f"{shop.address}/wide/made:1", f"{shop.address}/wide/one:1")
    assert made.returncode == 0, made.stderr
    raw = json.loads(
        tool("skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{shop.address}/wide/made:1")
    )
    assert [each["platform"]["architecture"] for each in raw["manifests"]] == [ARCHITECTURE]
    assert node.slipway("pull", "--all-platforms", wide).returncode == 0
    saved = tmp_path / "wide.tar"
    assert node.slipway("save", "-o", str(saved), wide).returncode == 0
    there = f"{shop.address}/wide/back:1"
    tool(
        *("skopeo", *POLICY, "copy", "--all", "--dest-tls-verify=false"),
        *(f"oci-archive:{saved}", f"docker://{there}"),
    )
    assert (
        json.loads(tool("skopeo", "inspect", "--tls-verify=false", f"docker://{there}"))["Digest"] == digest
    )
    assert node.slipway("rmi", "-f", wide).returncode == 0
    assert node.slipway("load", "-i", str(saved)).returncode == 0
    pushed = node.slipway("push", wide, f"{shop.address}/wide/all:1")
    assert (pushed.stdout, pushed.stderr) == (f"{shop.address}/wide/all:1@{digest}\n", "")
    runs(node, wide)
    other = node.slipway("save", "--platform", "s390x", "-o", str(saved), wide)
    assert other.returncode == 0, other.stderr
    config = json.loads(tool("skopeo", "inspect", "--raw", "--config", f"oci-archive:{saved}"))
    assert config["architecture"] == "s390x"


def test_umoci_reads_a_saved_layout_and_its_change_runs(
    node: TestNode, pulled: Image, tmp_path: Path
) -> None:
    layout = tmp_path / "layout"
    assert node.slipway("save", "--layout", str(layout), "app:1").returncode == 0
    assert tool("umoci", "list", "--layout", str(layout)).split() == ["1"]
    extra = tmp_path / "extra"
    extra.write_text("from umoci\n")
    tool("umoci", "insert", "--image", f"{layout}:1", "--tag", "2", str(extra), "/extra")
    loaded = node.slipway("load", "-i", str(layout), "--name", "umoci/app")
    assert loaded.returncode == 0, loaded.stderr
    assert set(loaded.stdout.splitlines()) == {f"Loaded image: docker.io/umoci/app:{tag}" for tag in (1, 2)}
    assert facts(node, "umoci/app:1")["Manifest"] == pulled["Manifest"]
    done = node.slipway("run", "--rm", "--network", "host", "umoci/app:2", "cat", "/extra")
    assert (done.returncode, done.stdout) == (0, "from umoci\n"), done.stderr


@pytest.fixture
def made(node: TestNode, pulled: Image, tmp_path: Path) -> list[str]:
    """An image that was built upon it, and what a container of that was committed as."""
    (tmp_path / "Dockerfile").write_text(
        "FROM app:1\nRUN echo built > /built && chown 7:8 /built\nENV MADE=1\n"
    )
    built = node.slipway("build", "-q", "-t", "built:1", str(tmp_path))
    assert built.returncode == 0, built.stderr
    script = "rm /etc/group && echo committed > /committed"
    ran = node.slipway("run", "--name", "made", "--network", "host", "built:1", "sh", "-c", script)
    assert ran.returncode == 0, ran.stderr
    committed = node.slipway("commit", "made", "committed:1")
    assert (committed.returncode, node.slipway("rm", "made").returncode) == (0, 0), committed.stderr
    return ["built:1", "committed:1"]


SEEN = "cat /built /committed 2>/dev/null; ls /etc | grep group; echo $MADE $(stat -c %u:%g /built)"
SEES = {"built:1": "built\ngroup\n1 7:8\n", "committed:1": "built\ncommitted\n1 7:8\n"}


def test_umoci_unpacks_what_is_built_and_committed(node: TestNode, made: list[str], tmp_path: Path) -> None:
    for name in made:
        layout, bundle = (tmp_path / f"{name.partition(':')[0]}.{kind}" for kind in ("layout", "bundle"))
        assert node.slipway("save", "--layout", str(layout), name).returncode == 0
        tool("umoci", "unpack", "--image", f"{layout}:1", str(bundle))
        root = bundle / "rootfs"
        assert (root / "built").read_text() == "built\n"
        assert ((root / "built").stat().st_uid, (root / "built").stat().st_gid) == (7, 8)
        assert (root / "etc/group").exists() is (name == "built:1")
        assert "MADE=1" in json.loads((bundle / "config.json").read_text())["process"]["env"]


@pytest.mark.parametrize("form", ["oci-archive", "docker-archive", "oci"])
def test_what_skopeo_writes_is_loaded_and_runs(
    node: TestNode, pulled: Image, busybox: str, tmp_path: Path, form: str
) -> None:
    assert node.slipway("rmi", "-f", pulled["Id"]).returncode == 0
    target = tmp_path / "image"
    source = f"docker://{busybox}"
    tool(
        "skopeo",
        *POLICY,
        "copy",
        "--src-tls-verify=false",
        source,
        f"{form}:{target}:example.com/from/skopeo:1",
    )
    loaded = node.slipway("load", "-i", str(target))
    assert (loaded.returncode, loaded.stdout) == (0, "Loaded image: example.com/from/skopeo:1\n"), (
        loaded.stderr
    )
    found = facts(node, "example.com/from/skopeo:1")
    assert (found["Id"], found["RootFS"]) == (pulled["Id"], pulled["RootFS"])
    if form != "docker-archive":
        assert found["Manifest"] == pulled["Manifest"]
    runs(node, "example.com/from/skopeo:1")


@pytest.mark.parametrize("pack", ["cat", "gzip", "zstd"])
def test_an_archive_goes_through_a_pipe(node: TestNode, pulled: Image, tmp_path: Path, pack: str) -> None:
    if shutil.which(pack) is None:
        pytest.skip(f"{pack} is not installed")
    shell(node, f"slipway save app:1 | {pack} > {tmp_path}/a; slipway rmi -f {pulled['Id']}")
    told = shell(node, f"slipway load < {tmp_path}/a")
    assert told == "Loaded image: docker.io/library/app:1\n"
    assert facts(node, "app:1")["Manifest"] == pulled["Manifest"]
    runs(node, "app:1")


def test_a_loaded_name_moves_only_when_told(
    node: TestNode, pulled: Image, busybox: str, tmp_path: Path
) -> None:
    saved = tmp_path / "app.tar"
    assert node.slipway("save", "-o", str(saved), "app:1").returncode == 0
    layout = tmp_path / "layout"
    tool("umoci", "init", "--layout", str(layout))
    tool("umoci", "new", "--image", f"{layout}:1")
    other = node.slipway("load", "-i", str(layout), "--name", "app:1")
    assert (other.returncode, "--replace" in other.stderr) == (1, True)
    assert facts(node, "app:1")["Id"] == pulled["Id"]
    assert node.slipway("load", "-i", str(layout), "--name", "app:1", "--replace").returncode == 0
    assert facts(node, "app:1")["Id"] != pulled["Id"]
    assert facts(node, busybox)["Id"] == pulled["Id"]


def test_what_cannot_be_saved_leaves_no_file(node: TestNode, tmp_path: Path) -> None:
    for where in ("-o", "--layout"):
        done = node.slipway("save", where, str(tmp_path / "x"), "absent:1")
        assert (done.returncode, "absent:1" in done.stderr) == (1, True)
    assert list(tmp_path.iterdir()) == []


def test_devices_and_pipes_are_written_into_and_links_stay(
    node: TestNode, pulled: Image, tmp_path: Path
) -> None:
    device, pipe, kept = tmp_path / "null", tmp_path / "pipe", tmp_path / "kept.tar"
    os.mknod(device, stat.S_IFCHR | 0o600, os.makedev(1, 3))
    os.mkfifo(pipe)
    (tmp_path / "link").symlink_to(kept)
    (tmp_path / "stdout").symlink_to("/proc/self/fd/1")
    shell(node, f"slipway save app:1 -o {tmp_path}/link && slipway save app:1 -o {device}")
    assert kept.stat().st_size == int(shell(node, f"slipway save app:1 -o {tmp_path}/stdout | wc -c"))
    shell(node, f"cmp {kept} {pipe} & slipway save app:1 -o {pipe} && wait $!")
    assert (device.is_char_device(), pipe.is_fifo(), (tmp_path / "link").is_symlink()) == (True,) * 3
    assert {path.name for path in tmp_path.iterdir()} == {"kept.tar", "link", "null", "pipe", "stdout"}


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/no/such.tar", "/no/such.tar: No such file or directory"),
        ("/proc/self/mem", "/proc/self/mem: Input/output error"),
    ],
)
def test_an_archive_that_cannot_be_read_is_named(node: TestNode, path: str, told: str) -> None:
    done = node.slipway("load", "-i", path)
    assert (done.returncode, done.stderr) == (1, f"slipway: {told}\n")


@pytest.fixture(scope="module")
def docker_host() -> Iterator[str]:
    """Debian's docker engine, which tests start for themselves."""
    if not engine.installed() or shutil.which("docker") is None:
        pytest.skip("needs docker and dockerd")
    with engine.engine(wait=True) as address:
        assert address is not None
        yield address


@pytest.mark.beyond_debian  # where there is no docker.io, it skips
@pytest.mark.timeout(300)
def test_a_docker_engine_reads_and_writes_the_same_image(
    node: TestNode, pulled: Image, docker_host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", docker_host)
    name = "slipway-test/roundtrip:1"
    assert node.slipway("tag", "app:1", name).returncode == 0
    try:
        assert f"Loaded image: {name}" in shell(node, f"slipway save {name} | docker load")
        assert tool("docker", "run", "--rm", "--network", "none", name, "echo", "hi") == "hi\n"
        tool("docker", "save", "-o", str(tmp_path / "d.tar"), name)
    finally:
        subprocess.run(["docker", "rmi", "-f", name], capture_output=True, check=False)
    assert node.slipway("rmi", "-f", pulled["Id"]).returncode == 0
    loaded = node.slipway("load", "-i", str(tmp_path / "d.tar"))
    assert loaded.returncode == 0, loaded.stderr
    found = facts(node, name)
    assert (found["Id"], found["RootFS"]) == (pulled["Id"], pulled["RootFS"])
    runs(node, name)


@pytest.mark.beyond_debian
@pytest.mark.timeout(300)
def test_a_docker_engine_runs_what_is_built_committed_and_pushed(
    node: TestNode, made: list[str], docker_host: str, shop: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", docker_host)
    run = ("docker", "run", "--rm", "--network", "none")
    pushed = [f"{shop.address}/made/{name}" for name in made]
    try:
        shell(node, f"slipway save {' '.join(made)} | docker load")
        for name, there in zip(made, pushed, strict=True):
            assert tool(*run, name, "sh", "-c", SEEN) == SEES[name]
            told = node.slipway("push", name, there)
            assert told.returncode == 0, told.stderr
            assert told.stdout.strip().partition("@")[2] in tool("docker", "pull", there)
            assert tool(*run, there, "sh", "-c", SEEN) == SEES[name]
    finally:
        subprocess.run(["docker", "rmi", "-f", *made, *pushed], capture_output=True, check=False)
