"""What takes space and what goes, by the slipway command: nothing that is in use, and the space is free at once."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from common.api.cri.v1 import api_pb2 as cri
from common.buildcache import is_cache
from devtools.cri import connect
from devtools.registry import Registry, file, layer
from slipway.completion.candidates import candidates
from tests.support.eventually import eventually
from tests.support.node import TestNode

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(120)]
Images = tuple[str, str]


@pytest.fixture
def images(node: TestNode, shop: Registry, busybox: str) -> Iterator[Images]:
    """busybox and an image of the test's own; all images are gone afterwards."""
    other = shop.push("prune/other", [layer([file("big", b"x" * 3_000_000)])], {"Cmd": ["/big"]})
    for name in (busybox, other):
        assert node.slipway("pull", name).returncode == 0
    yield busybox, other
    for pod in json.loads(node.slipway("pods", "-o", "json").stdout):
        node.slipway("pods", "rm", "-f", pod["id"])
    for image in json.loads(node.slipway("images", "-o", "json").stdout):
        node.slipway("rmi", "-f", image["id"])


def names(node: TestNode) -> set[str]:
    return {
        tag for i in json.loads(node.slipway("images", "-o", "json").stdout) for tag in i.get("repo_tags", [])
    }


def kinds(node: TestNode) -> dict[str, dict[str, Any]]:
    return {k["name"]: k for k in json.loads(node.slipway("system", "df", "-o", "json").stdout)}


def build(node: TestNode, directory: Path, base: str, name: str) -> tuple[str, str]:
    """An image of one step, under a name; its name in the cache, and its id."""
    (directory / "Dockerfile").write_text(f"FROM {base}\nLABEL built=yes\n")
    made = node.slipway("build", "-q", "-t", name, str(directory))
    assert made.returncode == 0, made.stderr
    found = json.loads(node.slipway("image", "inspect", made.stdout.strip()).stdout)[0]
    [cached] = [tag for tag in found["RepoTags"] if is_cache([tag])]
    return cached, found["Id"]


async def used_bytes(node: TestNode) -> tuple[int, int]:
    """What CRI says images and what containers wrote take."""
    async with connect(node.socket, node.logs) as client:
        info = await client.call(client.images.ImageFsInfo, cri.ImageFsInfoRequest())
    images, containers = info.image_filesystems[0], info.container_filesystems[0]
    return int(images.used_bytes.value), int(containers.used_bytes.value)


def test_images_go_by_rules_and_never_those_in_use(node: TestNode, shop: Registry, images: Images) -> None:
    busybox, other = images
    assert (
        node.slipway("run", "-d", "--name", "user", "--network", "host", busybox, "sleep", "1000").returncode
        == 0
    )
    false = replace(layer([file("false", b"x")]), diff_id=f"sha256:{0:064}")
    assert node.slipway("pull", shop.push("prune/refused", [false], {})).returncode == 1
    plain = json.loads(node.slipway("image", "prune", "-n", "-o", "json").stdout)
    assert {v["why"] for v in plain if not v.get("goes")} >= {f"has the name {other}"}
    young = node.slipway("image", "prune", "-af", "--filter", "until=24h")
    assert "Freed: 0 B" in young.stdout, young.stderr
    dry = node.slipway("image", "prune", "-an")
    assert "a container stands on its layers" in dry.stdout
    assert "Would remove left of pulls: " in dry.stdout
    assert names(node) >= {busybox, other}
    before = kinds(node)
    gone = node.slipway("image", "prune", "-af")
    assert gone.returncode == 0, gone.stderr
    assert "Removed left of pulls: " in gone.stdout
    assert "left of pulls" not in node.slipway("image", "prune", "-an").stdout
    assert busybox in names(node)
    assert other not in names(node)
    after = kinds(node)
    for kind in ("Images (blobs)", "Layers (unpacked)"):
        assert after[kind]["size_bytes"] == before[kind]["size_bytes"] - before[kind]["reclaimable_bytes"]
        assert after[kind]["reclaimable_bytes"] == 0
    assert before["Layers (unpacked)"]["reclaimable_bytes"] >= 3_000_000
    assert node.slipway("exec", "user", "true").returncode == 0


def test_a_container_counts_as_use_and_a_lease_holds(node: TestNode, images: Images) -> None:
    busybox, other = images

    def image(name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(node.slipway("image", "inspect", name).stdout)[0]
        return found

    came = image(busybox)
    assert came["UsedAtNs"] >= came["PulledAtNs"]

    def used_by_a_container() -> bool:
        node.slipway("run", "--rm", "--network", "host", busybox, "true")
        return bool(image(busybox)["UsedAtNs"] > came["UsedAtNs"])

    eventually(used_by_a_container, within_s=20, what="a use")  # they are remembered to the second
    assert image(busybox)["PulledAtNs"] == came["PulledAtNs"]
    held = node.slipway("image", "lease", other, "--for", "1h", "--name", "backup")
    assert held.stdout.startswith("Held until 20"), held.stderr
    assert list(image(other)["Leases"]) == ["backup"]
    assert image(other)["Pinned"]
    dry = node.slipway("image", "prune", "-an").stdout
    assert "the lease 'backup' holds it for 59 min more" in dry
    assert "last used" in dry
    assert "the lease 'backup' holds it" in node.slipway("system", "df", "-v").stdout
    assert "lease" in node.slipway("rmi", other).stderr
    wrong = node.slipway("image", "lease", other, "--for", "soon")
    assert (wrong.returncode, "want a time such as 24h" in wrong.stderr) == (1, True)
    assert node.slipway("image", "lease", other, "--end", "--name", "backup").returncode == 0
    gone = node.slipway("image", "prune", "-af")
    assert other not in names(node), gone.stdout


def test_ended_pods_of_run_go_and_running_ones_stay(node: TestNode, images: Images) -> None:
    busybox, _ = images
    for name, command in (("ended", "true"), ("going", "sleep 1000")):
        words = ("-d", "--name", name, "--network", "host", busybox, "sh", "-c", command)
        assert node.slipway("run", *words).returncode == 0
    assert node.slipway("wait", "ended").returncode == 0
    refused = node.slipway("prune")
    assert (refused.returncode, "--force" in refused.stderr) == (1, True)
    assert "Would remove pod: ended" in node.slipway("prune", "-n").stdout
    kept = node.slipway("system", "prune", "-f", "--filter", "until=1h")
    assert "pod" not in kept.stdout
    done = node.slipway("prune", "-f")
    assert "Removed pod: ended\n" in done.stdout, done.stderr
    left = {p["metadata"]["name"] for p in json.loads(node.slipway("pods", "-o", "json").stdout)}
    assert left == {"going"}
    assert "STAYS" in node.slipway("system", "df", "-v").stdout


def test_what_containers_write_is_counted(node: TestNode, images: Images) -> None:
    busybox, _ = images
    script = "dd if=/dev/zero of=/full bs=1M count=5; sleep 1000"
    words = ("run", "-d", "--name", "big", "--network", "host", busybox, "sh", "-c", script)
    assert node.slipway(*words).returncode == 0
    wait = "until [ $(stat -c %s /full) = 5242880 ]; do sleep 0.05; done"
    assert node.slipway("exec", "big", "sh", "-c", wait).returncode == 0
    eventually(lambda: kinds(node)["Containers"]["size_bytes"] >= 5 << 20, within_s=30, what="the count")
    assert kinds(node)["Containers"]["total"] == 1


@pytest.mark.anyio
async def test_a_kubelet_sees_freed_space_at_once(node: TestNode, images: Images) -> None:
    _, other = images
    before, _ = await used_bytes(node)
    reclaimable = json.loads(node.slipway("image", "prune", "-an", "-o", "json").stdout)
    freed = {
        name: int(v["frees_blob_bytes"]) + int(v["frees_layer_bytes"])
        for v in reclaimable
        for name in v["names"]
    }
    assert node.slipway("rmi", other).returncode == 0
    after, _ = await used_bytes(node)
    assert before - after == freed[other] > 3_000_000


def test_what_only_builds_named_is_in_no_list_but_counts_as_theirs_and_goes_with_prune(
    node: TestNode, images: Images, tmp_path: Path
) -> None:
    _, other = images
    before = kinds(node)
    cached, _ = build(node, tmp_path, other, "named/app:1")
    assert node.slipway("rmi", other).returncode == 0
    assert cached not in node.slipway("images").stdout  # beside a name that somebody gave
    assert node.slipway("untag", "named/app:1").returncode == 0
    assert cached not in node.slipway("images").stdout
    image_id = json.loads(node.slipway("image", "inspect", cached).stdout)[0]["Id"]
    for words, shown in ((("-q",), False), (("-aq",), True), (("-q", cached), True)):
        listed = node.slipway("images", "--no-trunc", *words).stdout
        assert (image_id in listed) == shown, words
    assert cached in node.slipway("images", "-a").stdout
    offered = [candidates(("rmi", word), str(node.run_dir)) for word in ("", cached[:-1])]
    assert [cached in [word for word, _ in found] for found in offered] == [False, True]
    after = kinds(node)
    size = before["Layers (unpacked)"]["size_bytes"] - after["Layers (unpacked)"]["size_bytes"]
    assert size >= 3_000_000
    assert after["Images (blobs)"]["total"] == before["Images (blobs)"]["total"] - 1
    assert after["Build caches"]["total"] == before["Build caches"]["total"] + 1
    assert after["Build caches"]["reclaimable_bytes"] >= size
    kept = node.slipway("image", "prune", "-n")
    assert ("cached steps" in kept.stdout, cached in kept.stdout) == (False, False)
    assert "Would remove cached steps of builds: 1\n" in node.slipway("image", "prune", "-an").stdout
    assert "cached steps" not in node.slipway("prune", "-f", "--filter", "until=1h").stdout
    assert "Removed cached steps of builds: 1\n" in node.slipway("prune", "-f").stdout
    assert node.slipway("image", "inspect", cached).returncode == 1
    assert kinds(node)["Layers (unpacked)"]["size_bytes"] == after["Layers (unpacked)"]["size_bytes"]


def test_each_name_of_an_image_is_told_and_those_of_builds_only_alone(
    node: TestNode, images: Images, tmp_path: Path
) -> None:
    _, other = images
    cached, made = build(node, tmp_path, other, "names/b:1")
    assert node.slipway("tag", made, "names/a:1").returncode == 0
    assert node.slipway("rmi", other).returncode == 0
    plain = json.loads(node.slipway("image", "prune", "-n", "-o", "json").stdout)
    assert {v["why"] for v in plain} & {
        "has the name docker.io/names/a:1",
        "has the name docker.io/names/b:1",
    }
    told = {"docker.io/names/a:1", "docker.io/names/b:1"}
    for words in (("system", "df", "-v"), ("image", "prune", "-an"), ("image", "prune", "-af")):
        rows = [line.split() for line in node.slipway(*words).stdout.splitlines()]
        assert told <= {row[0] for row in rows if row}, words
        assert cached not in {row[0] for row in rows if row}, words
    assert not told & names(node)


@pytest.mark.parametrize(
    "words",
    [
        ("image", "prune", "-f", "--filter", "until=soon"),
        ("image", "prune", "-f", "--filter", "label=x"),
        ("image", "prune", "-f", "--max-size", "lots"),
        ("image", "prune", "-f", "--keep-last", "-1"),
    ],
)
def test_a_malformed_rule_is_told_and_removes_nothing(
    node: TestNode, images: Images, words: tuple[str, ...]
) -> None:
    done = node.slipway(*words)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert names(node) >= set(images)
