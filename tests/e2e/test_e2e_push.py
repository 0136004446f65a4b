"""Push and copy by the slipway command, to registries with and without a login."""

import json
import subprocess
from pathlib import Path

import pytest

from devtools.registry import Registry
from tests.support.node import TestNode

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(120)]


def digest_at(reference: str, *options: str) -> str:
    command = [
        "skopeo",
        "inspect",
        "--tls-verify=false",
        *options,
        "--format",
        "{{.Digest}}",
        f"docker://{reference}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_pulled_image_is_pushed_elsewhere_with_its_digest(
    node: TestNode, shop: Registry, busybox: str, tmp_path: Path
) -> None:
    assert node.slipway("pull", busybox).returncode == 0
    there = f"{shop.address}/pushed/app:1"
    pushed = node.slipway("push", "-o", "json", busybox, there)
    assert pushed.returncode == 0, pushed.stderr
    told = json.loads(pushed.stdout)[0]
    assert told["digest"] == digest_at(busybox) == digest_at(there)
    assert {blob["state"] for blob in told["blobs"]} == {"BLOB_STATE_MOUNTED"}
    assert node.slipway("tag", busybox, f"{shop.address}/pushed/two:2").returncode == 0
    again = node.slipway("image", "push", f"{shop.address}/pushed/two:2")
    assert again.stdout == f"{shop.address}/pushed/two:2@{told['digest']}\n"
    ran = node.slipway("run", "--rm", "--network", "host", f"{shop.address}/pushed/two:2", "echo", "hi")
    assert (ran.returncode, ran.stdout) == (0, "hi\n")


def test_an_image_is_copied_between_registries(node: TestNode, shop: Registry, busybox: str) -> None:
    copied = node.slipway("image", "copy", busybox, f"{shop.address}/copied/app:1")
    assert copied.returncode == 0, copied.stderr
    assert digest_at(f"{shop.address}/copied/app:1") == digest_at(busybox)


def test_what_cannot_be_pushed_is_told_in_a_sentence(node: TestNode, shop: Registry, busybox: str) -> None:
    absent = node.slipway("push", "absent:1")
    assert (absent.returncode, "absent:1" in absent.stderr) == (1, True)
    assert node.slipway("pull", busybox).returncode == 0
    nowhere = node.slipway("push", busybox, "127.0.0.1:9/app:1")
    assert (nowhere.returncode, nowhere.stderr.count("\n"), "127.0.0.1:9" in nowhere.stderr) == (1, 1, True)
