"""The command as a process, without a node."""

import argparse
import importlib
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import pytest

from slipway import parser
from slipway.completion.candidates import subcommands
from slipway.words import unoffered, unofferedbuild

SLIPWAY = str(Path(sys.executable).parent / "slipway")


def slipway(*words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [SLIPWAY, *words], capture_output=True, text=True, timeout=30, check=False, env=environment
    )


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("ps",), 1),
        (("-o", "json", "ps"), 1),
        (("pull", "x"), 1),
        (("run", "x"), 125),
        (("exec", "x", "y"), 125),
    ],
)
def test_without_a_node_the_next_step_is_told(tmp_path: Path, words: tuple[str, ...], code: int) -> None:
    done = slipway("--run-dir", str(tmp_path), *words)
    assert done.returncode == code
    assert done.stderr.splitlines() == [
        f"slipway: no node answers in {tmp_path}: start one with `sudo ./dev up`, or give --run-dir"
    ]


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_stream_that_it_is_started_without_is_an_empty_one(tmp_path: Path, closed: str) -> None:
    script = f'exec "$0" "$@" {closed}'
    words = ("sh", "-c", script, SLIPWAY, "--run-dir", str(tmp_path), "ps")
    done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)
    told = "" if "2>&-" in closed else f"slipway: no node answers in {tmp_path}: "
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(told)
    assert "Traceback" not in done.stderr


def test_the_exit_code_is_the_same_when_nobody_reads_the_errors(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [SLIPWAY, "--run-dir", str(tmp_path), "run", "x"], stderr=writer, timeout=30, check=False
        )
    finally:
        os.close(writer)
    assert done.returncode == 125


def test_the_run_directory_may_come_from_the_environment(tmp_path: Path) -> None:
    assert str(tmp_path) in slipway("status", SLIPWAY_RUN_DIR=str(tmp_path)).stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("events", "--filter", "colour=red"), "kind, verb, id, node"),
        (("events", "--since", "soon"), "10m"),
        (("exec", "x"), "no command"),
    ],
)
def test_a_wrong_option_is_told_before_anything_is_asked(words: tuple[str, ...], told: str) -> None:
    done = slipway("--run-dir", "/nonexistent", *words)
    assert done.returncode != 0
    assert told in done.stderr


@pytest.mark.parametrize(
    "words", [("run",), ("run", "--nosuch", "x"), ("exec",), ("walk",), ("-o", "xml", "ps")]
)
def test_wrong_words_have_dockers_code_and_the_next_step(words: tuple[str, ...]) -> None:
    done = slipway(*words)
    assert done.returncode == 125
    assert "--help" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("psx",), "slipway: no command 'psx', perhaps ps or ops: see slipway --help"),
        (("pods", "rmm"), "slipway pods: no command 'rmm', perhaps rm: see slipway pods --help"),
        (("ps", "--foo"), "slipway ps: no option --foo: see slipway ps --help"),
        (("ps", "--no-trun"), "slipway ps: no option --no-trun, perhaps --no-trunc: see slipway ps --help"),
        (("ps", "x"), "slipway ps: unrecognized arguments: x: see slipway ps --help"),
        (
            ("run", "--volumes-from=a", "x"),
            "slipway run: --volumes-from of docker is not offered: give the same -v to both: see slipway run --help",
        ),
        (
            ("run", "--restart", "always", "x"),
            f"slipway run: --restart always of docker is not offered: {unoffered.WHY['--restart']}: see slipway run --help",
        ),
        (
            ("run", "--shm-size", "1m", "x"),
            f"slipway run: --shm-size of docker is not offered: {unoffered.WHY['--shm-size']}: see slipway run --help",
        ),
        (
            ("run", "-P", "x"),
            f"slipway run: -P of docker is not offered: {unoffered.WHY['--publish-all']}: see slipway run --help",
        ),
        (
            ("run", "-dP", "x"),
            f"slipway run: -P of docker is not offered: {unoffered.WHY['--publish-all']}: see slipway run --help",
        ),
        (
            ("create", "-astdin", "x"),
            f"slipway create: -a of docker is not offered: {unoffered.WHY['--attach']}: see slipway create --help",
        ),
        (
            ("inspect", "-f", "{{.State}}", "x"),
            f"slipway inspect: {unoffered.TEMPLATES}: see slipway inspect --help",
        ),
        (
            ("inspect", "--format={{.Id}}", "x"),
            f"slipway inspect: {unoffered.TEMPLATES}: see slipway inspect --help",
        ),
        (
            ("image", "inspect", "-f{{.Id}}", "x"),
            f"slipway image inspect: {unoffered.TEMPLATES}: see slipway image inspect --help",
        ),
        (("stop", "--foo", "x"), "slipway stop: no option --foo: see slipway stop --help"),
        (
            ("image", "rm", "--no-prune", "x"),
            f"slipway image rm: --no-prune of docker is not offered: {unoffered.REFUSED['rmi']['--no-prune']}: see slipway image rm --help",
        ),
        (
            ("history", "-H", "x"),
            f"slipway history: -H of docker is not offered: {unoffered.REFUSED['history']['--human']}: see slipway history --help",
        ),
        (
            ("top", "x", "aux"),
            f"slipway top: unrecognized arguments: aux: {unoffered.PS}: see slipway top --help",
        ),
        (
            ("top", "x", "-eo", "pid"),
            f"slipway top: options of ps are not offered: {unoffered.PS}: see slipway top --help",
        ),
        (("ps", "--format", "{{.ID}}"), f"slipway ps: {unoffered.TEMPLATES}: see slipway ps --help"),
        (("run",), "slipway run: the following arguments are required: image: see slipway run --help"),
        (("run", "-h"), "slipway run: argument -h/--hostname: expected one argument: see slipway run --help"),
        (
            ("run", "--memroy", "10m", "x"),
            "slipway run: no option --memroy, perhaps --memory: see slipway run --help",
        ),
    ],
)
def test_a_word_that_is_unknown_is_refused_by_the_command_that_would_take_it(
    words: tuple[str, ...], told: str
) -> None:
    assert slipway(*words).stderr.splitlines()[-1] == told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("info",), f"slipway: no command 'info': {unoffered.VERBS['info']}: see slipway --help"),
        (
            ("rename", "a", "b"),
            f"slipway: no command 'rename': {unoffered.VERBS['rename']}: see slipway --help",
        ),
        (
            ("container", "ls"),
            f"slipway: no command 'container': {unoffered.VERBS['container']}: `slipway ps`: see slipway --help",
        ),
        (
            ("container", "rm", "web"),
            f"slipway: no command 'container': {unoffered.VERBS['container']}: `slipway rm`: see slipway --help",
        ),
        (
            ("network", "ls"),
            f"slipway: no command 'network': {unoffered.VERBS['network']}: see slipway --help",
        ),
        (
            ("system", "info"),
            f"slipway system: no command 'info': {unoffered.VERBS['info']}: see slipway system --help",
        ),
    ],
)
def test_a_command_that_only_docker_has_is_refused_with_ours(words: tuple[str, ...], told: str) -> None:
    assert slipway(*words).stderr.splitlines()[-1] == told


def _commands(*words: str) -> set[str]:
    done = subprocess.run(
        ["docker", *words, "--help"], capture_output=True, text=True, timeout=30, check=True
    )
    return set(re.findall(r"^  ([a-z]+)\*? +[A-Z]", done.stdout, re.MULTILINE))


def test_each_command_of_docker_is_taken_or_refused_by_name() -> None:
    if shutil.which("docker") is None:
        pytest.skip("docker is not installed")
    ours = {name for names in parser.GROUPS.values() for name in names}
    theirs = _commands()
    assert len(theirs) > 50
    assert theirs - ours <= set(unoffered.VERBS)


def test_a_wrong_word_is_told_in_two_lines() -> None:
    usage, told = slipway("run", "--memroy", "10m", "x").stderr.splitlines()
    assert usage == "usage: slipway run [OPTIONS] image ..."
    assert "--memroy" in told
    assert slipway("psx").stderr.splitlines()[0] == "usage: slipway [OPTIONS] COMMAND ..."


def test_the_version_is_told() -> None:
    done = slipway("--version")
    assert (done.returncode, done.stdout) == (0, f"slipway {version('slipway')}\n")


def test_events_of_a_nats_that_does_not_answer_are_an_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"nats://127.0.0.1:{taken.getsockname()[1]}"
        done = slipway("events", "--nats", url, "--until-now")
    assert (done.returncode, url in done.stderr) == (1, True)


def _loaded(script: str) -> set[str]:
    script += "; import sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True
    )
    return set(done.stdout.split())


def test_help_needs_nothing_heavy() -> None:
    loaded = _loaded("import slipway.main, slipway.parser; slipway.parser.build()")
    assert "argparse" in loaded
    assert not loaded & {"grpc", "rich", "nats", "anyio", "asyncio", "google.protobuf", "msgspec"}


def test_a_list_needs_grpc_and_little_else() -> None:
    loaded = _loaded("import slipway.main, slipway.parser, slipway.commands.lists, common.rpc.plain")
    assert "grpc" in loaded
    assert not loaded & {
        *("anyio", "rich", "nats", "opentelemetry", "msgspec", "msgpack", "google.protobuf.json_format"),
        *(
            "common.api.cri.v1.api_pb2_grpc",
            "slipway.commands.run",
            "slipway.words.running",
            "slipway.words.images",
        ),
    }


def test_each_group_adds_the_commands_that_it_is_known_for() -> None:
    for module, names in parser.GROUPS.items():
        verbs = argparse.ArgumentParser().add_subparsers()
        importlib.import_module(f"slipway.words.{module}").add(verbs)
        assert set(verbs.choices) == set(names)


@pytest.mark.parametrize(
    ("words", "all_of_them"),
    [((), True), (("--run-dir", "ps", "walk"), True), (("-o", "json", "ps", "run"), False)],
)
def test_only_the_group_of_the_command_is_built(words: tuple[str, ...], all_of_them: bool) -> None:
    usage = parser.build(words).format_help()
    assert "list containers" in usage
    assert ("remove names of images" in usage) == all_of_them


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--squash",), f"--squash of docker is not offered: {unofferedbuild.WHY['--squash']}"),
        (("--output=x",), f"--output of docker is not offered: {unofferedbuild.WHY['--output']}"),
        (("-ox",), f"-o of docker is not offered: {unofferedbuild.WHY['--output']}"),
        (("--labels", "x"), "no option --labels, perhaps --label"),
    ],
)
def test_an_option_of_dockers_build_is_refused_with_what_to_do_instead(
    words: tuple[str, ...], told: str
) -> None:
    assert (
        slipway("build", *words, ".").stderr.splitlines()[-1]
        == f"slipway build: {told}: see slipway build --help"
    )


def _verbs(above: argparse.ArgumentParser, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, verb in subcommands(above).items():
        yield (*words, name)
        yield from _verbs(verb, (*words, name))


def _options_of(words: tuple[str, ...]) -> set[str]:
    verb = parser.build(words)
    for word in words:
        verb = subcommands(verb)[word]
    return set(verb._option_string_actions)


def _options_of_docker(words: tuple[str, ...]) -> set[str]:
    done = subprocess.run(
        ["docker", *words, "--help"], capture_output=True, text=True, timeout=30, check=True
    )
    options = re.findall(r"^ +(?:(-\w), )?(--[a-z0-9-]+)", done.stdout, re.MULTILINE)
    return {name for pair in options for name in pair if name}


def test_each_option_of_each_command_of_docker_is_taken_or_refused_by_name() -> None:
    if shutil.which("docker") is None:
        pytest.skip("docker is not installed")
    unlike = {("config",)}  # of Swarm, there
    windows = {"--cpu-count", "--cpu-percent", "--io-maxbandwidth", "--io-maxiops"}
    groups: tuple[tuple[str, ...], ...] = ((), ("image",), ("system",))
    theirs_of = {words: _commands(*words) for words in groups}
    commands = [
        words
        for words in _verbs(parser.build())
        if words[-1] in theirs_of.get(words[:-1], ()) and words not in unlike
    ]
    with ThreadPoolExecutor(4) as pool:
        found = dict(zip(commands, pool.map(_options_of_docker, commands), strict=True))
    assert len(found[("run",)]) > 90
    for words, theirs in found.items():
        ours, refused = _options_of(words), set(unoffered.names_of(" ".join(words)))
        assert theirs - windows - ours - refused == set(), words
        assert ours & refused == set(), words


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (("run", "--rm=true", "x"), "rm", True),
        (("run", "--rm=false", "x"), "rm", False),
        (("attach", "--sig-proxy=false", "x"), "sig_proxy", False),
        (("attach", "--sig-proxy", "x"), "sig_proxy", True),
        (("commit", "--pause=false", "x"), "pause", False),
        (("ps", "--no-trunc=true"), "no_trunc", True),
        (("run", "x", "y", "--rm=true"), "command", ["y", "--rm=true"]),
    ],
)
def test_a_switch_is_set_as_docker_sets_one(words: tuple[str, ...], name: str, value: object) -> None:
    assert getattr(parser.build(words).parse_args(words), name) == value
