"""slipway pods run: from a file in each form, from images, and what is refused."""

import json
from pathlib import Path

import pytest

from tests.support.node import TestNode

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(120)]
SHORT = """
name: duo
hostname: both
containers:
  - name: one
    image: {image}
    command: [sh, -c, "echo $WHO on $(hostname); exec sleep 1000"]
    env: {{WHO: me}}
    memory: 64m
    cpus: 1
  - image: {image}
    name: two
    command: [sleep, 1000]
    read_only: true
"""


def test_a_pod_of_a_short_file_runs_and_outlives_one_of_its_containers(
    node: TestNode, busybox: str, tmp_path: Path
) -> None:
    file = tmp_path / "pod.yaml"
    file.write_text(SHORT.format(image=busybox))
    ran = node.slipway("pods", "run", "-f", str(file))
    assert ran.returncode == 0, ran.stderr
    shown = json.loads(node.slipway("ps", "-o", "json").stdout)
    pods = {entry["container"]["pod_sandbox_id"] for entry in shown}
    assert ({entry["container"]["metadata"]["name"] for entry in shown}, pods) == (
        {"one", "two"},
        {ran.stdout.strip()},
    )
    assert node.slipway("exec", "one", "true").returncode == 0
    assert node.slipway("logs", "one").stdout == "me on both\n"
    limits = json.loads(node.slipway("inspect", "one").stdout)[0]["status"]["resources"]["linux"]
    assert limits["memory_limit_in_bytes"] == str(64 << 20)
    refused = node.slipway("exec", "two", "touch", "/x")
    assert "Read-only" in refused.stderr
    again = node.slipway("pods", "run", "-f", str(file))
    assert (again.returncode, "a pod 'duo' exists" in again.stderr) == (1, True)
    assert node.slipway("rm", "-f", "two").returncode == 0
    assert "one" in node.slipway("ps").stdout
    assert node.slipway("pods", "rm", "-f", "duo").returncode == 0
    assert json.loads(node.slipway("ps", "-a", "-o", "json").stdout) == []


def test_a_pod_comes_in_cris_own_words_on_standard_input(node: TestNode, busybox: str) -> None:
    words = {
        "sandbox": {"metadata": {"name": "cri", "uid": "u1", "namespace": "ns"}, "hostname": "h"},
        "containers": [
            {
                "metadata": {"name": "c"},
                "image": {"image": busybox},
                "args": ["sleep", "1000"],
                "log_path": "c.log",
            }
        ],
    }
    ran = node.slipway("pods", "run", "-f", "-", stdin=json.dumps(words))
    assert ran.returncode == 0, ran.stderr
    assert node.slipway("exec", "c", "hostname").stdout == "h\n"
    assert node.slipway("pods", "rm", "-f", "cri").returncode == 0


def test_a_pod_has_a_container_of_each_image_or_is_not_there(node: TestNode, busybox: str) -> None:
    failed = node.slipway("pods", "run", "--name", "half", busybox, "127.0.0.1:1/no/image")
    assert failed.returncode == 1
    assert json.loads(node.slipway("pods", "-o", "json").stdout) == []
    ran = node.slipway("pods", "run", "--name", "pair", busybox, busybox)
    assert ran.returncode == 0, ran.stderr
    assert len(json.loads(node.slipway("ps", "-a", "-o", "json").stdout)) == 2
    assert node.slipway("pods", "rm", "-f", "pair").returncode == 0


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[1, 2]", "want a table"),
        ("{", "neither YAML nor JSON"),
        ("name: x", "containers: want a list"),
        (
            "containers: [{image: x, colour: red}]",
            "containers[0].colour: is no key of a pod; known are name,",
        ),
        ("containers: [{image: x, cpus: many}]", "containers[0].cpus = 'many': want a number"),
        ("containers: [{image: x, privileged: 1}]", "containers[0].privileged = 1: want true or false"),
        ("containers: [{image: x, memory: 1q}]", "--memory '1q'"),
        ("{containers: [{image: x}], network: moon}", "network 'moon': want pod or host"),
        ("sandbox: {nosuch: 1}", "is no pod of CRI"),
    ],
)
def test_a_wrong_file_is_told_by_key_and_value(node: TestNode, tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "pod.yaml"
    file.write_text(text)
    refused = node.slipway("pods", "run", "-f", str(file))
    assert (refused.returncode, told in refused.stderr) == (1, True), refused.stderr
    assert len(refused.stderr.splitlines()) == 1
