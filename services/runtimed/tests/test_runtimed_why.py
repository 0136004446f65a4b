"""The rules of why, by the words that OCI runtimes, plugins and registries use; tests/e2e has the real things."""

import platform
import signal

import pytest

from runtimed.evidence import Evidence, Mark
from runtimed.record import ContainerRecord
from runtimed.why import ends, errors
from runtimed.why.finding import End, Trouble
from runtimed.why.program import Program, of_head

ELF = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x03\x00"
HERE = platform.machine()


@pytest.mark.parametrize(
    ("text", "cause", "said"),
    [
        (
            '{"msg":"exec container process `/f/arm`: Exec format error","level":"error"}',
            "exec-format",
            "`/f/arm`",
        ),
        ("exec /f/noshebang: exec format error", "exec-format", "`/f/noshebang`"),
        (
            "container x: start: executable file `nope` not found in $PATH: No such file or directory",
            "command-missing",
            "`nope`",
        ),
        (
            'runc run failed: unable to start container process: exec: "/nope": stat /nope: no such file or directory',
            "command-missing",
            "`/nope`",
        ),
        ('exec: "nope": executable file not found in $PATH', "command-missing", "`nope`"),
        (
            'starting container: error finding executable "nope" in PATH [/bin]: no such file or directory',
            "command-missing",
            "`nope`",
        ),
        (
            "exec container process (missing dynamic library?) `/f/x`: No such file or directory",
            "command-missing",
            "`/f/x`",
        ),
        ("container x: start: open executable: Permission denied", "not-executable", "may not be executed"),
        (
            'unable to start container process: exec: "/f/noexec": permission denied',
            "not-executable",
            "may not",
        ),
        (
            "user 'nosuch': no valid entry in the image's /etc/passwd",
            "unknown-user",
            "user `nosuch` is not in the image's /etc/passwd",
        ),
        ("group 'adm': no valid entry in the image's /etc/group", "unknown-user", "group `adm`"),
        ("container x: start: chdir `/etc/passwd`: Not a directory", "workdir-missing", "`/etc/passwd`"),
        (
            "error during container init: mkdir /proc/foo: no such file or directory",
            "workdir-missing",
            "`/proc/foo` cannot be entered: no such file or directory",
        ),
        (
            "cni plugin 'bridge': ADD failed: no IP addresses available in range set",
            "cni-failed",
            "`bridge` failed: no IP",
        ),
        ("cni plugin 'nosuch' is in none of /opt/cni/bin", "cni-failed", "nosuch"),
        ("cni network 'n': ADD took over 60 s", "cni-failed", "ADD took over"),
        ("RegistryUnavailable: image a/b:1: registry a is not known by DNS", "registry-unreachable", "DNS"),
        ("SignatureValidationFailed: image a/b:1: no signature (policy)", "image-untrusted", "no signature"),
        ("unpack: No space left on device (/var/lib/x)", "no-space", "No space"),
        ("config.image.image: 'a/b:1' is not on this node: pull it first", "image-absent", "pull it first"),
        ("something else about seccomp", "start-failed", "something else"),
    ],
)
def test_words_of_an_error_have_a_cause_and_a_step(text: str, cause: str, said: str) -> None:
    found = errors.of_error(Trouble(text=text), "start-failed")
    assert found.cause == cause
    assert said in found.words
    assert len(found.next_steps) == 1


@pytest.mark.parametrize(
    ("reason", "cause"),
    [
        ("PermissionDeniedError", "image-unauthorized"),
        ("NotFoundError", "image-not-found"),
        ("DataLossError", "create-failed"),
    ],
)
def test_an_error_on_an_image_is_told_apart_by_its_class(reason: str, cause: str) -> None:
    text = "image a/b:1: registry a said no"
    assert errors.of_error(Trouble(text=text, reason=reason), "create-failed").cause == cause


@pytest.mark.parametrize(
    ("head", "program"),
    [
        (ELF + b"\xb7\x00", Program(machine="aarch64")),
        (ELF + b"\x3e\x00", Program(machine="x86_64")),
        (ELF.replace(b"\x02\x01", b"\x02\x02", 1) + b"\x00\x16", Program(machine="s390x")),
        (ELF + b"\xff\x77", Program(machine="machine 0x77ff")),
        (b"#! /bin/bash -e\necho", Program(interpreter="/bin/bash -e")),
        (b"echo hi\n", Program()),
        (b"\x7fELF", Program()),
        (b"", Program()),
    ],
)
def test_a_program_is_known_by_its_head(head: bytes, program: Program) -> None:
    assert of_head(head) == program


@pytest.mark.parametrize(
    ("program", "said"),
    [
        (Program(machine="nosuch"), f"is for nosuch, and this node is {HERE}"),
        (Program(), "has no #! line, and is no program"),
        (Program(machine=HERE), "or damaged"),
        (None, "or damaged"),
    ],
)
def test_the_programs_file_says_why_it_does_not_run(program: Program | None, said: str) -> None:
    trouble = Trouble(text="exec /x: exec format error", program=program)
    assert said in errors.of_error(trouble, "start-failed").words


@pytest.mark.parametrize(
    ("program", "said"),
    [
        (Program(interpreter="/bin/bash"), "needs the interpreter `/bin/bash`, which is not in the image"),
        (Program(machine=HERE), "needs a loader of libraries"),
        (None, "`/x` is not in the image"),
    ],
)
def test_a_program_that_is_there_lacks_something_else(program: Program | None, said: str) -> None:
    trouble = Trouble(text="exec /x: no such file or directory", program=program)
    found = errors.of_error(trouble, "start-failed")
    assert (found.cause, said in found.words) == ("command-missing", True)


def told(seconds: float, *, resource: str = "memory", raised: bool = True) -> Mark:
    """What is noted of the node's pressure so many seconds after the epoch."""
    facts = {"resource": resource, "raised": raised, "value": 30.0, "threshold": 20.0}
    return Mark(at_ns=int(seconds * 1e9), what="node-pressure", facts=facts)


@pytest.mark.parametrize(
    ("marks", "number", "short"),
    [
        ([told(1)], signal.SIGKILL, True),
        ([told(1), told(2, raised=False)], signal.SIGKILL, False),
        ([told(1), told(2, raised=False), told(3)], signal.SIGKILL, True),
        ([told(1, resource="cpu")], signal.SIGKILL, False),
        ([told(1)], signal.SIGTERM, False),
        ([], signal.SIGKILL, False),
    ],
    ids=["raised", "cleared", "again", "of something else", "another signal", "none"],
)
def test_a_kill_from_outside_is_seen_with_the_nodes_want_of_memory(
    marks: list[Mark], number: int, short: bool
) -> None:
    record = ContainerRecord(
        id="c1", key="k", sandbox_id="s1", signal=number, exit_code=128 + number, finished_at_ns=4_000_000_000
    )
    found = ends.of_end(End(record=record, marks=marks))
    assert (found.cause, found.words.endswith("; the node was short of memory.")) == ("killed", short)


@pytest.mark.parametrize(
    ("marks", "wanted"),
    [
        ([told(10)], [10]),
        ([told(10), told(900, resource="io")], [10, 900]),
        ([told(10), told(20, raised=False)], []),
        ([told(900), told(950, raised=False)], [900, 950]),
        ([told(900), told(1001, raised=False)], [900]),
    ],
    ids=["lasts", "of two", "over long ago", "over lately", "over later"],
)
def test_pressure_of_the_node_counts_while_it_lasts_and_a_while_after(
    marks: list[Mark], wanted: list[int]
) -> None:
    evidence = Evidence()
    evidence._node.extend(marks)
    assert [mark.at_ns // 10**9 for mark in evidence.of("c1", [], until_ns=1000 * 10**9)] == wanted


def test_the_end_of_pressure_that_a_record_has_is_known() -> None:
    evidence = Evidence()
    evidence._node.extend([told(10), told(20, raised=False)])
    assert evidence.of("c1", [told(10)], until_ns=1000 * 10**9) == [told(10), told(20, raised=False)]
