"""The completion scripts in real shells."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from slipway.completion.candidates import candidates

BIN = str(Path(sys.executable).parent)
LINES = [
    ("slipway ins", ["inspect"]),
    ("slipway --run-dir /nonexistent kill --si", ["--signal"]),
    ("slipway pods sto", ["stop"]),
    ("slipway rm", ["rm", "rmi"]),
    ("slipway run --network h", ["host"]),
    ("slipway completion f", ["fish"]),
    ("slipway run --cap-add NET_A", ["NET_ADMIN"]),
    ("slipway run --secur", ["--security-opt"]),
    ("slipway exec --priv", ["--privileged"]),
]
BASH = """eval "$(slipway completion bash)"; COMP_LINE="$1"; COMP_POINT=${#1}
_slipway; printf '%s\\n' "${COMPREPLY[@]}"
"""
ZSH = """compdef() { }; _describe() { print -l -- "${(@)found%%:*}" }; _files() { print files }
eval "$(slipway completion zsh)"; words=("${(@s: :)1}"); CURRENT=$#words; _slipway
"""
FISH = "slipway completion fish | source; complete -C $argv[1] | string split -f1 \\t; true"


def shell(name: str, *words: str) -> list[str]:
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    environment = {
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "HOME": os.devnull,
        "SLIPWAY_RUN_DIR": "/nonexistent",
    }
    done = subprocess.run(
        [name, *words], capture_output=True, text=True, timeout=30, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(("line", "wanted"), LINES)
def test_bash_completes(line: str, wanted: list[str]) -> None:
    assert shell("bash", "-c", BASH, "bash", line) == wanted


@pytest.mark.parametrize(("line", "wanted"), LINES)
def test_zsh_completes(line: str, wanted: list[str]) -> None:
    assert shell("zsh", "-f", "-c", ZSH, "zsh", line) == wanted


@pytest.mark.parametrize(("line", "wanted"), LINES)
def test_fish_completes(line: str, wanted: list[str]) -> None:
    assert sorted(shell("fish", "--no-config", "-c", FISH, line)) == sorted(wanted)


@pytest.mark.parametrize("words", [["exec", "web", "ls", "-"], ["cp", "./"], ["stop", ""]])
def test_nothing_is_offered_where_files_or_only_names_fit(words: list[str]) -> None:
    assert candidates(words, "/nonexistent") == []


def test_commands_come_with_what_they_do_and_hidden_ones_do_not_come() -> None:
    found = dict(candidates([""], "/nonexistent"))
    assert found["ps"] == "List containers."
    assert not [word for word in found if word.startswith("_")]


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["ps", "-f", "status=p"], ["status=paused"]),
        (["images", "--filter", "dang"], ["dangling=true", "dangling=false"]),
        (["image", "ls", "--filter", "ref"], ["reference="]),
        (["run", "--ulimit", "nof"], ["nofile="]),
        (["run", "--stop-signal", "Q"], ["QUIT"]),
        (["run", "--mount", "type=i"], ["type=image,source="]),
        (["run", "--pull", "n"], ["never"]),
        (["run", "--env-file", ""], []),
    ],
)
def test_values_of_options_are_known(words: list[str], wanted: list[str]) -> None:
    assert [word for word, _ in candidates(words, "/nonexistent")] == wanted
