"""What ./dev torture keeps of its runs, and how it reads them; the runs themselves are in tests/e2e."""

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from common.api.cri.v1 import api_pb2 as cri_pb
from node.layout import SERVICES
from tests.test_cves import TESTS
from torture import inputs, page
from torture.density import Figures
from torture.main import parser, parts
from torture.page import KEPT, PAGE, TITLES, Section, Table
from torture.power.boot import Before, lies
from torture.power.cuts import Found

FOUND = Section(ran="Three rows.", faults=3, survived=2, worst_s=1.26, lost=["an exit code"])


def test_the_page_has_every_part_and_shows_the_figures_that_are_kept() -> None:
    text = PAGE.read_text()
    assert page.rendered(text, page.read()) == text
    assert all(f"<!-- figures of {part} -->" in text for part in ("all", *TITLES))
    assert set(page.read()) <= set(TITLES)
    assert KEPT.read_text().endswith("\n")


def test_a_part_that_is_written_keeps_those_of_the_others(tmp_path: Path) -> None:
    text, kept = tmp_path / "page.md", tmp_path / "kept.json"
    text.write_text(
        "# Ours\n"
        + "".join(
            f"{part}:\n<!-- figures of {part} -->\n<!-- end of figures -->\n" for part in ("all", *TITLES)
        )
    )
    kept.write_text("{}")
    page.write({"matrix": replace(FOUND, tables=[Table(["a"], [["b"]])])}, text, kept)
    first = page.read(kept)["matrix"]
    assert first.commit
    assert first.day
    page.write({"power": replace(FOUND, ran="Two cuts.", lost=[])}, text, kept)
    assert page.read(kept)["matrix"] == first
    shown = text.read_text()
    assert (
        f"Three rows. At {first.commit}, {first.day}. Lost or untrue: **1**.\n\n- an exit code\n\n| a |"
        in shown
    )
    assert f"| {TITLES['matrix']} | 3 | 2 | 1 | 1.3 | {first.commit} | {first.day} |" in shown
    assert "Two cuts. At" in shown
    assert f"| {TITLES['soak']} |  |  |  |  |  | no run is written down |" in shown
    assert shown.startswith("# Ours\nall:\n")


def test_a_page_that_was_written_makes_no_other_commit_of_it(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    for path in (docs / PAGE.name, docs / KEPT.name, tmp_path / "code"):
        path.write_text("before")
    assert page.commit(docs) == "no commit"
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "-A"], [*who, "commit", "-q", "-m", "one"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    clean = page.commit(docs)
    (docs / PAGE.name).write_text("after")
    (docs / KEPT.name).write_text("after")
    assert page.commit(docs) == clean
    (tmp_path / "code").write_text("after")
    assert page.commit(docs) == f"{clean}, changed"


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("", "churn matrix density upgrade inputs"),
        ("--long", "soak matrix density upgrade power inputs"),
        ("--churn --long", "soak"),
        ("--only redis", "matrix"),
        ("--upgrade --density --seconds 5", "density upgrade"),
        ("--power 3", "power"),
    ],
)
def test_every_part_is_run_or_those_named(words: str, wanted: str) -> None:
    assert " ".join(parts(parser().parse_args(words.split()))) == wanted


@pytest.mark.parametrize(("all_s", "lost"), [(1.99, 0), (2.01, 1)])
def test_a_goal_of_density_that_was_missed_is_a_loss(all_s: float, lost: int) -> None:
    found = Figures(
        pods=1,
        made_s=1,
        restart_s=dict.fromkeys(SERVICES, 0.5),
        all_s=all_s,
        execs=1,
        exec_ms=1,
        attaches=1,
        attach_ms=1,
        fds=(1, 1),
        services_mib=1,
    )
    assert len(found.section().lost) == lost


def test_what_a_boot_said_counts_from_then_on() -> None:
    found = Found(boots=1)
    said = found.read(["PULLED a", "PULLED b", "REMOVING a", "STARTING c1 7", "ENDED c1", "STARTING c2 8"])
    assert said == {"PULLED", "REMOVING", "STARTING", "ENDED"}
    found.read(["STARTING c3 9", "ENDED c3", "FORGETTING c1"])
    found.read(["ENDED c2"], settled=False)
    assert found.arguments() == ["--has", "b", "--promised", "c2=8", "c3=9", "--ended", "c3"]
    found.boots = 2
    assert "CHECKED" in found.read(["PROBLEM c3 is away", "CHECKED 1 2 1", "STARTING c4 1"])
    assert (found.images, found.codes, found.problems) == (1, 2, ["boot 2: c3 is away"])
    assert (found.has, found.promised, found.ended) == ({"b"}, {"c4": 1}, set())


@pytest.mark.parametrize(
    ("state", "code", "reason", "told", "lie"),
    [
        ("EXITED", 7, "Error", True, ""),
        ("EXITED", 7, "Error", False, ""),
        ("EXITED", 255, "Unknown", False, ""),
        ("EXITED", 255, "Unknown", True, "exit code 255 (Unknown), not 7"),
        ("EXITED", 0, "Completed", False, "exit code 0 (Completed), not 7"),
        ("EXITED", 255, "Error", False, "exit code 255 (Error), not 7"),
        ("CREATED", 0, "", False, ""),
        ("CREATED", 0, "", True, "had ended, and nothing says so"),
        ("RUNNING", 0, "", False, "is said to run after a boot"),
        ("UNKNOWN", 0, "", False, "is said to run after a boot"),
    ],
)
def test_a_record_that_lies_after_a_cut_is_told(
    state: str, code: int, reason: str, told: bool, lie: str
) -> None:
    status = cri_pb.ContainerStatus(
        id="c", state=cri_pb.ContainerState.Value(f"CONTAINER_{state}"), exit_code=code, reason=reason
    )
    wrong = lies(Before(set(), {"c": 7}, {"c"} if told else set()), [status])
    assert [one.partition(" c")[2].lstrip(": ") for one in wrong] == ([lie] if lie else [])


def test_a_record_that_is_gone_after_its_end_was_told_is_a_lie() -> None:
    assert lies(Before(set(), {"c": 7}, set()), []) == []
    assert lies(Before(set(), {"c": 7}, {"c"}), []) == ["container c had ended, and nothing says so"]


def test_bad_inputs_are_all_files_named_for_them_and_the_tests_of_vulnerabilities() -> None:
    chosen = inputs.chosen()
    assert {"tests/e2e/test_e2e_hostile.py", "services/snapshotd/tests/test_snapshotd_fuzz.py"} <= set(chosen)
    assert "tests/test_cves.py" not in chosen
    for test in TESTS.values():
        assert (test in chosen) != (test.partition("::")[0] in chosen)


def test_bad_inputs_are_counted_and_those_that_broke_something_named() -> None:
    junit = (
        '<testsuites><testsuite><testcase classname="a.tests.test_fuzz" name="test_x"/>'
        '<testcase classname="a.tests.test_fuzz" name="test_y"><failure/></testcase>'
        '<testcase classname="b.test_hostile" name="test_z[1]"/>'
        '<testcase classname="b.test_hostile" name="test_away"><skipped/></testcase></testsuite></testsuites>'
    )
    output = "a/tests/test_fuzz.py::test_x:\n\n  - during generate phase (0.1 seconds):\n    - 100 passing, 2 failing, and 0 invalid test cases\n"
    told = inputs.told(junit, output)
    assert (told.faults, told.survived, told.lost) == (105, 104, ["test_fuzz: test_y"])
    assert told.tables[0].rows == [["test_fuzz", "2", "102", "1"], ["test_hostile", "1", "", ""]]
    assert inputs.told(junit, output, again=told.lost) == told
    assert inputs.told(junit, output, again=[]).lost == []  # a race of the tests
