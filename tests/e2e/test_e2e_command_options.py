"""Docker's options of exec, ps, images, logs and stats."""

import json
import re
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from tests.support.eventually import eventually
from tests.support.node import TestNode

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def pair(node: TestNode, busybox: str) -> Iterator[None]:
    """One that runs and counts, one that has ended."""
    loop = "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.2; done"
    label = ["-l", "tier=front"]
    assert node.slipway("run", "-d", "--name", "runner", *label, busybox, "sh", "-c", loop).returncode == 0
    assert (
        node.slipway("run", "--name", "ended", "-l", "plain", busybox, "sh", "-c", "exit 3").returncode == 3
    )
    yield
    node.slipway("rm", "-f", "runner", "ended")


def _ids(node: TestNode, *names: str) -> list[str]:
    return [json.loads(node.slipway("inspect", name).stdout)[0]["status"]["id"] for name in names]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-u", "1234:99"], "1234 99 / "),
        (["-u", "root"], "0 0 / "),
        (["-w", "/tmp"], "0 0 /tmp "),
        (["-e", "SAID=yes"], "0 0 / yes"),
    ],
)
def test_exec_runs_as_somebody_somewhere_with_variables(
    node: TestNode, pair: None, words: list[str], said: str
) -> None:
    done = node.slipway("exec", *words, "runner", "sh", "-c", "echo $(id -u) $(id -g) $PWD $SAID")
    assert (done.returncode, done.stdout.strip()) == (0, said.strip()), done.stderr


def test_exec_refuses_an_unknown_user_and_has_rights_only_when_asked(
    node: TestNode, pair: None, tmp_path: Path
) -> None:
    refused = node.slipway("exec", "-u", "nosuch", "runner", "true")
    assert (refused.returncode, "user 'nosuch'" in refused.stderr) == (125, True)
    (tmp_path / "vars").write_text("SAID=from a file\n")
    held = node.slipway("exec", "--env-file", f"{tmp_path}/vars", "runner", "sh", "-c", "echo $SAID")
    assert held.stdout == "from a file\n"
    caps = [
        int(
            node.slipway("exec", *words, "runner", "grep", "CapEff", "/proc/self/status").stdout.split()[1],
            16,
        )
        for words in ([], ["--privileged"])
    ]
    assert caps[0] != caps[1]
    assert caps[0] & caps[1] == caps[0]


def test_exec_goes_on_when_it_is_left(node: TestNode, pair: None) -> None:
    started = time.monotonic()
    done = node.slipway("exec", "-d", "runner", "sh", "-c", "sleep 3; echo late > /tmp/late")
    assert (done.returncode, done.stdout) == (0, "")
    assert node.slipway("exec", "-d", "-i", "runner", "cat").returncode == 125
    eventually(
        lambda: node.slipway("exec", "runner", "cat", "/tmp/late").stdout == "late\n", what="it writes"
    )
    assert time.monotonic() - started >= 3


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ([], ["runner"]),
        (["-a"], ["ended", "runner"]),
        (["-n", "1"], ["ended"]),
        (["-l"], ["ended"]),
        (["-f", "name=unn"], ["runner"]),
        (["-f", "status=exited"], ["ended"]),
        (["-f", "exited=3"], ["ended"]),
        (["-a", "-f", "exited=4"], []),
        (["-a", "-f", "label=tier"], ["runner"]),
        (["-a", "-f", "label=tier=back"], []),
        (["-a", "-f", "label=tier=front", "-f", "label=plain"], ["ended", "runner"]),
        (["-a", "-f", "origin=cri"], []),
    ],
)
def test_ps_lists_what_fits(node: TestNode, pair: None, words: list[str], names: list[str]) -> None:
    done = node.slipway("ps", "-q", "--no-trunc", *words)
    assert (done.returncode, done.stdout.split()) == (0, _ids(node, *names)), done.stderr


def test_ps_refuses_a_filter_with_those_that_there_are(node: TestNode) -> None:
    done = node.slipway("ps", "-f", "colour=red")
    assert (done.returncode, "name, id, status, label, ancestor" in done.stderr) == (1, True)


def test_images_by_name_with_digests_or_ids_alone(node: TestNode, busybox: str, pair: None) -> None:
    assert node.slipway("tag", busybox, "options.example/team/app:1").returncode == 0
    try:
        shown = node.slipway("images", "--digests", "-f", "reference=*/demo/busybox").stdout
        assert busybox in shown
        assert "sha256:" in shown
        assert "options.example" not in shown
        for wanted in ("app", "app:1", "team/app", "options.example/team/app:1"):
            assert "options.example/team/app:1" in node.slipway("images", wanted).stdout
        short, whole = (
            node.slipway("images", "-q", *words, busybox).stdout for words in ([], ["--no-trunc"])
        )
        assert whole.removeprefix("sha256:").startswith(short.strip())
        assert len(short.strip()) == 12
        assert short not in node.slipway("images", "-q", "-f", "dangling=true").stdout
    finally:
        node.slipway("untag", "options.example/team/app:1")


def test_logs_of_a_span_of_time(node: TestNode, pair: None) -> None:
    eventually(lambda: "line 5" in node.slipway("logs", "runner").stdout, what="it has written")
    stamped = node.slipway("logs", "-t", "-n", "all", "runner").stdout.splitlines()
    third, fifth = stamped[2].split()[0], stamped[4].split()[0]
    assert node.slipway("logs", "--since", third, "--until", fifth, "runner").stdout == "line 3\nline 4\n"
    assert node.slipway("logs", "--until", fifth, "-n", "1", "runner").stdout == "line 4\n"
    assert node.slipway("logs", "-f", "--until", fifth, "runner").stdout.endswith("line 4\n")
    recent = node.slipway("logs", "--since", "1s", "runner").stdout.count("\n")
    assert recent < node.slipway("logs", "runner").stdout.count("\n")
    asked_s = time.time()
    followed = node.slipway("logs", "-f", "-t", "--until", f"{asked_s + 2:.9f}", "runner").stdout.splitlines()
    assert time.time() >= asked_s + 2
    first, last = (datetime.fromisoformat(followed[n].split()[0][:26] + "Z").timestamp() for n in (0, -1))
    assert first < asked_s < last < asked_s + 2
    wrong = node.slipway("logs", "--tail", "few", "runner")
    assert (wrong.returncode, "--tail 'few'" in wrong.stderr) == (1, True)


def test_stats_once_has_the_processor_too(node: TestNode, pair: None) -> None:
    row = next(r for r in node.slipway("stats", "--no-stream").stdout.splitlines() if " runner " in r)
    assert float(row.split()[2].removesuffix("%")) >= 0


def test_ps_shows_the_command_and_since_when(node: TestNode, pair: None) -> None:
    headings, *rows = node.slipway("ps", "-a").stdout.splitlines()
    assert headings.split() == ["ID", "NAME", "COMMAND", "STATUS", "CREATED", "IMAGE", "PORTS", "POD"]
    ended, runner = (next(row for row in rows if f"  {name}  " in row) for name in ("ended", "runner"))
    assert re.search(r"  sh -c exit 3  +Exited \(3\) [a-z0-9 ]+ ago  ", ended), ended
    assert re.search(r"  sh -c i=0; while :.*…  +Running [a-z0-9 ]+  ", runner), runner
    whole = node.slipway("ps", "--no-trunc").stdout
    assert "sh -c i=0; while :; do i=$((i+1)); echo line $i; sleep 0.2; done" in whole


def test_what_containers_wrote_is_a_size(node: TestNode, busybox: str) -> None:
    written = "dd if=/dev/zero of=/big bs=1M count=3 2>/dev/null"
    assert node.slipway("run", "--name", "big", busybox, "sh", "-c", written).returncode == 0
    eventually(
        lambda: json.loads(node.slipway("inspect", "-s", "big").stdout)[0]["written_bytes"] >= 3 << 20,
        what="its size is measured",
    )
    listed = json.loads(node.slipway("ps", "-as", "-f", "name=big", "-o", "json").stdout)
    table = node.slipway("ps", "-a", "--size", "-f", "name=big").stdout.splitlines()
    assert node.slipway("rm", "big").returncode == 0
    assert listed[0]["written_bytes"] >= 3 << 20
    assert (table[0].split()[-1], table[1].split()[-2:]) == ("SIZE", ["3.15", "MB"])


def test_ps_shows_the_images_command_where_none_is_given(node: TestNode, busybox: str) -> None:
    assert (
        node.slipway("create", "--name", "plain", "--entrypoint", "/bin/echo", busybox, "hi").returncode == 0
    )
    told = json.loads(node.slipway("ps", "-a", "-f", "name=plain", "-o", "json").stdout)
    assert node.slipway("commit", "-c", 'CMD ["sleep", "7"]', "plain", "sleeper:1").returncode == 0
    assert node.slipway("create", "--name", "sleeper", "sleeper:1").returncode == 0
    listed = node.slipway("ps", "-a", "-f", "name=sleeper").stdout
    assert node.slipway("rm", "-v", "plain", "sleeper").returncode == 0
    node.slipway("rmi", "sleeper:1")
    assert told[0]["command"] == "/bin/echo hi"
    assert "  sleep 7  " in listed


def test_stats_of_some_with_limits_and_percent(node: TestNode, pair: None, busybox: str) -> None:
    words = ("-d", "--name", "bounded", "-m", "64m", busybox, "sleep", "1000")
    assert node.slipway("run", *words).returncode == 0
    headings, bounded, ended = node.slipway("stats", "--no-stream", "bounded", "ended").stdout.splitlines()
    alone = json.loads(node.slipway("stats", "--no-stream", "-o", "json", "bounded").stdout)
    running = node.slipway("stats", "--no-stream").stdout
    everything = node.slipway("stats", "--no-stream", "-a").stdout
    unknown = node.slipway("stats", "--no-stream", "nosuch")
    assert node.slipway("rm", "-f", "bounded").returncode == 0
    assert re.split("  +", headings) == ["ID", "NAME", "CPU", "MEMORY", "LIMIT", "MEMORY %", "DISK"]
    cells = re.split("  +", bounded)
    assert (cells[1], cells[4]) == ("bounded", "67.1 MB")
    assert 0 < float(cells[5].removesuffix("%")) < 50
    assert re.split("  +", ended)[1:6] == ["ended", "-", "-", "-", "-"]
    assert [item["attributes"]["metadata"]["name"] for item in alone] == ["bounded"]
    assert (" ended " in running, " ended " in everything) == (False, True)
    assert (unknown.returncode, "no container 'nosuch'" in unknown.stderr) == (1, True)


def test_images_have_an_age(node: TestNode, pair: None, busybox: str) -> None:
    headings, row = node.slipway("images", busybox).stdout.splitlines()
    assert re.split("  +", headings) == ["IMAGE", "ID", "CREATED", "SIZE"]
    created = json.loads(node.slipway("image", "inspect", busybox).stdout)[0]["Created"]
    assert (re.split("  +", row)[2] == "N/A") == (not created)


def test_inspect_tells_where_a_container_is_and_what_it_runs(node: TestNode, busybox: str) -> None:
    words = ("-p", "127.0.0.1:18479:80", "-e", "SAID=yes", "-w", "/tmp", "--entrypoint", "sleep")
    assert node.slipway("run", "-d", "--name", "seen", *words, busybox, "1000").returncode == 0
    told = json.loads(node.slipway("inspect", "seen").stdout)[0]
    inside = node.slipway("exec", "seen", "ip", "-4", "addr", "show", "eth0").stdout
    assert node.slipway("stop", "-t", "0", "seen").returncode == 0
    ended = json.loads(node.slipway("inspect", "seen").stdout)[0]
    assert node.slipway("rm", "seen").returncode == 0
    assert f"inet {told['network']['ips'][0]}/" in inside
    assert [(p["host_ip"], p["host_port"], p["container_port"]) for p in told["network"]["ports"]] == [
        ("127.0.0.1", 18479, 80)
    ]
    for found in (told, ended):
        assert (found["process"]["args"], found["process"]["cwd"]) == (["sleep", "1000"], "/tmp")
        assert "SAID=yes" in found["process"]["env"]


def test_inspect_takes_an_image_where_no_container_has_the_name(
    node: TestNode, pair: None, busybox: str
) -> None:
    container, image = json.loads(node.slipway("inspect", "runner", busybox).stdout)
    assert container["status"]["metadata"]["name"] == "runner"
    assert busybox in image["RepoTags"]
    for name in ("nosuch", "NoSuch"):
        unknown = node.slipway("inspect", name)
        assert unknown.returncode == 1
        expected = f"no container or image '{name}': `slipway ps -a` and `slipway images` list them"
        assert expected in unknown.stderr


def test_inspect_of_one_type_takes_no_other_for_it(node: TestNode, busybox: str) -> None:
    name = "type.example/twice:1"
    assert node.slipway("tag", busybox, name).returncode == 0
    image = node.slipway("inspect", "--type", "image", name)
    no_container = node.slipway("inspect", "--type", "container", name)
    node.slipway("untag", name)
    assert name in json.loads(image.stdout)[0]["RepoTags"]
    assert (no_container.returncode, f"no container '{name}'" in no_container.stderr) == (1, True)


def test_history_of_ids_alone(node: TestNode, pair: None, busybox: str) -> None:
    whole = node.slipway("history", "-q", "--no-trunc", busybox).stdout.splitlines()
    short = node.slipway("history", "--quiet", busybox).stdout.splitlines()
    shown = json.loads(node.slipway("image", "inspect", busybox).stdout)[0]["Id"]
    assert whole[-1] == shown
    assert short[-1] == shown.removeprefix("sha256:")[:12]
    assert len(whole) == len(json.loads(node.slipway("history", "-o", "json", busybox).stdout))


def test_events_up_to_a_time_that_was_or_comes(node: TestNode, busybox: str) -> None:
    words = ("events", "-f", "kind=image", "-f", "verb=tagged", "-o", "json")
    before = time.time_ns()
    assert node.slipway("tag", busybox, "until.example/one:1").returncode == 0
    between = time.time_ns()
    assert node.slipway("tag", busybox, "until.example/two:1").returncode == 0
    at = [f"{ns // 10**9}.{ns % 10**9:09}" for ns in (before, between, time.time_ns() + 2 * 10**9)]
    one = node.slipway(*words, "--since", at[0], "--until", at[1])
    both = node.slipway(*words, "--since", at[0], "--until", at[2])
    node.slipway("untag", "until.example/one:1", "until.example/two:1")
    assert ("until.example/one" in one.stdout, "until.example/two" in one.stdout) == (True, False), one
    assert ("until.example/one" in both.stdout, "until.example/two" in both.stdout) == (True, True), both


def test_run_takes_a_directory_from_here_and_memory_of_a_size(
    node: TestNode, busybox: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ctx").mkdir()
    (tmp_path / "ctx" / "file").write_text("text")
    monkeypatch.chdir(tmp_path)
    words = ("-h", "hh", "-v", "./ctx:/x:ro,Z", "--tmpfs", "/dev/shm:size=1m")
    script = "hostname; cat /x/file; df -k /dev/shm | tail -1"
    done = node.slipway("run", "--rm", *words, busybox, "sh", "-c", script)
    assert done.returncode == 0, done.stderr
    host, rest = done.stdout.split("\n", 1)
    assert (host, rest.split()[0], rest.split()[1]) == ("hh", "texttmpfs", "1024")


def test_a_pod_in_a_file_takes_directories_beside_it(node: TestNode, busybox: str, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("beside")
    pod = {
        "name": "near",
        "containers": [{"image": busybox, "command": ["cat", "/d"], "volumes": ["./data:/d"]}],
    }
    (tmp_path / "pod.json").write_text(json.dumps(pod))
    assert node.slipway("pods", "run", "-f", str(tmp_path / "pod.json")).returncode == 0
    name = json.loads(node.slipway("ps", "-a", "-f", "pod=near", "-o", "json").stdout)[0]["container"]["id"]
    node.slipway("wait", name)
    told = node.slipway("logs", name).stdout
    node.slipway("pods", "rm", "-f", "near")
    assert told == "beside"
