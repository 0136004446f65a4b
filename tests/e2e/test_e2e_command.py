"""The slipway command, as a person types it."""

import json
import select
import subprocess
import sys
from pathlib import Path

import pytest

from devtools.registry import Registry
from tests.support.node import PROGRAMS, TestNode
from tests.support.pace import patience

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(120)]


def test_an_image_comes_is_listed_and_goes(node: TestNode, shop: Registry, busybox: str) -> None:
    pulled = node.slipway("pull", "-o", "json", busybox)
    assert pulled.returncode == 0, pulled.stderr
    assert json.loads(pulled.stdout)[0]["id"].startswith("sha256:")
    assert busybox in node.slipway("images").stdout
    assert node.slipway("rmi", busybox).returncode == 0
    assert busybox not in node.slipway("images").stdout
    gone = node.slipway("rmi", busybox)
    assert (gone.returncode, busybox in gone.stderr) == (1, True)


def test_names_of_an_image_are_given_and_taken(node: TestNode, busybox: str) -> None:
    assert node.slipway("pull", busybox).returncode == 0
    assert node.slipway("tag", busybox, "box:mine").returncode == 0
    facts = json.loads(node.slipway("image", "inspect", "box:mine").stdout)[0]
    assert set(facts["RepoTags"]) == {busybox, "docker.io/library/box:mine"}
    steps = json.loads(node.slipway("history", "-o", "json", "box:mine").stdout)
    assert steps[-1]["id"] == facts["Id"]
    assert [step["diff_id"] for step in steps if step["diff_id"]] == facts["RootFS"]["Layers"][::-1]
    assert all(step["size_bytes"] > 0 for step in steps if step["diff_id"])
    assert "CREATED BY" in node.slipway("image", "history", "box:mine").stdout
    assert node.slipway("run", "-d", "--name", "user", "box:mine", "sleep", "1000").returncode == 0
    assert node.slipway("rmi", "box:mine").stdout == "Untagged: docker.io/library/box:mine\n"
    used = node.slipway("rmi", busybox)
    assert (used.returncode, "a container uses it" in used.stderr) == (1, True)
    assert node.slipway("pods", "rm", "-f", "user").returncode == 0
    untagged = node.slipway("untag", busybox)
    assert f"Untagged: {busybox}\n" in untagged.stdout
    assert node.slipway("rmi", facts["Id"]).stdout == f"Deleted: {facts['Id']}\n"


def test_run_prints_the_output_and_exits_with_the_code(node: TestNode, busybox: str) -> None:
    done = node.slipway(
        "run", "--rm", "--network", "host", busybox, "sh", "-c", "echo out; echo err >&2; exit 4"
    )
    assert (done.returncode, done.stdout, "err" in done.stderr) == (4, "out\n", True)
    assert node.slipway("ps", "-a", "-o", "json").stdout.strip() == "[]"


def test_a_detached_container_lives_a_whole_life(node: TestNode, busybox: str) -> None:
    script = "echo ready; while :; do sleep 0.1; done"
    started = node.slipway("run", "-d", "--name", "web", busybox, "sh", "-c", script)
    assert started.returncode == 0, started.stderr
    assert "web" in node.slipway("ps").stdout
    done = node.slipway("exec", "web", "sh", "-c", "echo in; exit 6")
    assert (done.returncode, done.stdout) == (6, "in\n")
    fed = node.slipway("exec", "-i", "web", "cat", stdin="fed\n")
    assert (fed.returncode, fed.stdout) == (0, "fed\n")
    assert node.slipway("logs", "web").stdout == "ready\n"
    assert json.loads(node.slipway("inspect", "web").stdout)[0]["status"]["state"] == "CONTAINER_RUNNING"
    assert "web" in node.slipway("stats", "--no-stream").stdout
    refused = node.slipway("rm", "web")
    assert (refused.returncode, "--force" in refused.stderr) == (1, True)
    assert node.slipway("stop", "-t", "1", "web").returncode == 0
    assert "Exited (137)" in node.slipway("ps", "-a").stdout
    assert node.slipway("rm", "web").returncode == 0
    assert node.slipway("pods", "-o", "json").stdout.strip() == "[]"
    kinds = [
        json.loads(line)["event"]["type"]
        for line in node.slipway(
            "events", "--until-now", "-o", "json", "--filter", "kind=container"
        ).stdout.splitlines()
    ]
    assert "container.removed.v1" in kinds


def test_processes_are_listed_signalled_and_waited_for(node: TestNode, busybox: str) -> None:
    script = "trap 'exit 7' USR1; while :; do sleep 0.1; done"
    assert node.slipway("run", "-d", "--name", "job", busybox, "sh", "-c", script).returncode == 0
    listed = json.loads(node.slipway("top", "-o", "json", "job").stdout)
    assert "trap" in listed[0]["command"]
    assert {row["command"].split()[0] for row in listed} <= {"sh", "sleep"}
    assert "COMMAND" in node.slipway("top", "job").stdout
    wrong = node.slipway("kill", "-s", "NOSUCH", "job")
    assert (wrong.returncode, "NOSUCH" in wrong.stderr) == (1, True)
    sent = node.slipway("kill", "--signal", "SIGUSR1", "job")
    assert (sent.returncode, sent.stdout) == (0, "job\n")
    waited = node.slipway("wait", "job")
    assert (waited.returncode, waited.stdout) == (0, "7\n")
    for verb, told in (("kill", "is exited, not running"), ("top", "does not run")):
        ended = node.slipway(verb, "job")
        assert (ended.returncode, told in ended.stderr) == (1, True)
    assert node.slipway("rm", "job").returncode == 0


def test_a_pod_is_listed_inspected_stopped_and_removed(node: TestNode, busybox: str) -> None:
    assert node.slipway("run", "-d", "--name", "whole", busybox, "sleep", "1000").returncode == 0
    assert "whole" in node.slipway("pods", "ps").stdout
    pod = json.loads(node.slipway("pods", "inspect", "whole").stdout)[0]["status"]
    assert (pod["metadata"]["name"], pod["state"]) == ("whole", "SANDBOX_READY")
    refused = node.slipway("pods", "rm", "whole")
    assert (refused.returncode, "--force" in refused.stderr) == (1, True)
    stopped = node.slipway("pods", "stop", "whole")
    assert (stopped.returncode, stopped.stdout) == (0, "whole\n")
    assert "NotReady" in node.slipway("pods").stdout
    assert node.slipway("pods", "rm", pod["id"][:12]).returncode == 0
    assert json.loads(node.slipway("pods", "ps", "-o", "json").stdout) == []
    assert json.loads(node.slipway("ps", "-a", "-o", "json").stdout) == []
    gone = node.slipway("pods", "stop", "whole")
    assert (gone.returncode, "no pod 'whole'" in gone.stderr) == (1, True)


def test_docker_exit_codes_of_what_cannot_run(node: TestNode, shop: Registry, busybox: str) -> None:
    assert node.slipway("run", "--rm", busybox, "/no/such/command").returncode == 127
    assert node.slipway("run", "--rm", busybox, "/etc/passwd").returncode == 126
    unknown = node.slipway("run", "--rm", f"{shop.address}/no/such:image")
    assert (unknown.returncode, "no/such:image" in unknown.stderr) == (125, True)


def test_a_list_is_a_table_on_a_terminal_and_json_in_a_pipe(node: TestNode) -> None:
    command = f"{Path(sys.executable).parent / 'slipway'} --run-dir {node.run_dir} status"
    told = {
        where: subprocess.run(words, capture_output=True, text=True, timeout=30, check=False).stdout
        for where, words in {
            "terminal": ["script", "-qc", command, "/dev/null"],
            "pipe": command.split(),
            "pipe, as a table": [*command.split(), "-o", "table"],
        }.items()
    }
    assert json.loads(told["pipe"])[0]["runtime_name"] == "slipway"
    assert "CONDITION" in told["terminal"]
    assert "CONDITION" in told["pipe, as a table"]


def test_a_full_disk_under_its_output_is_one_sentence(node: TestNode) -> None:
    command = [str(Path(sys.executable).parent / "slipway"), "--run-dir", str(node.run_dir), "ps"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=30, check=False
        )
    assert (done.returncode, done.stderr) == (1, "slipway: No space left on device\n")


def test_status_says_that_the_node_is_ready(node: TestNode) -> None:
    done = node.slipway("status")
    assert done.returncode == 0, done.stdout
    assert "RuntimeReady" in done.stdout


@pytest.mark.parametrize("victim", ["crid", "runtimed"])
def test_a_command_waits_for_a_service_that_comes_back(node: TestNode, busybox: str, victim: str) -> None:
    assert node.slipway("run", "-d", "--name", "kept", busybox, "sleep", "1000").returncode == 0
    node.kill(victim)
    done = node.slipway("exec", "kept", "echo", "on")
    assert (done.returncode, done.stdout) == (0, "on\n"), done.stderr
    assert node.slipway("rm", "-f", "kept").returncode == 0


def test_each_look_of_stats_comes_through_a_pipe_at_once(node: TestNode, busybox: str) -> None:
    assert node.slipway("run", "-d", "--name", "looked", busybox, "sleep", "1000").returncode == 0
    words = ("--run-dir", str(node.run_dir), "-o", "table", "stats", "looked")
    command = ["env", "-u", "PYTHONUNBUFFERED", str(PROGRAMS / "slipway"), *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=0) as looking:
        assert looking.stdout is not None
        try:
            assert select.select([looking.stdout], [], [], patience(10))[0], "nothing came"
            assert b"MEMORY %" in looking.stdout.read(1000)
        finally:
            looking.kill()
    assert node.slipway("rm", "-f", "looked").returncode == 0


def test_a_container_is_paused_and_goes_on(node: TestNode, busybox: str) -> None:
    script = "trap 'exit 5' TERM; while :; do echo tick; sleep 0.05; done"
    assert node.slipway("run", "-d", "--name", "still", busybox, "sh", "-c", script).returncode == 0
    paused = node.slipway("pause", "still", "nosuch")
    assert (paused.returncode, paused.stdout, "no container 'nosuch'" in paused.stderr) == (
        1,
        "still\n",
        True,
    )
    assert "Paused" in node.slipway("ps").stdout
    refused = node.slipway("exec", "still", "true")
    assert (refused.returncode, "unpause it first" in refused.stderr) == (125, True)
    assert node.slipway("unpause", "still").stdout == "still\n"
    assert "Running" in node.slipway("ps").stdout
    assert node.slipway("pause", "still").returncode == 0
    assert node.slipway("stop", "still").returncode == 0
    assert "Exited (5)" in node.slipway("ps", "-a").stdout
    told = node.slipway("events", "--until-now", "-o", "json", "--filter", "id=still").stdout
    verbs = [json.loads(line)["event"]["type"].split(".")[1] for line in told.splitlines()]
    assert [v for v in verbs if v in ("paused", "resumed", "exited")] == [
        *("paused", "resumed", "paused", "resumed", "exited")
    ]
    ids = node.slipway("ps", "-aq").stdout.split()
    assert [len(found) for found in ids] == [12]
    assert node.slipway("rm", *ids).returncode == 0
