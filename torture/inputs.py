"""Bad inputs: the tests that send what is malformed, oversized or hostile, run and counted."""

import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree as ET

from tests.test_cves import TESTS
from torture.page import Section, Table

ROOT = Path(__file__).parent.parent
KINDS = ("hostile", "fuzz", "floods", "stalls", "escapes", "e2e_cves")
"""One of them is in the name of a file with such tests."""
RUN_S = 1800
_EXAMPLES = re.compile(r"- (\d+) passing, (\d+) failing")


def chosen() -> list[str]:
    """Those files, and the tests elsewhere that stand for a vulnerability of other runtimes, as pytest takes them."""
    tests = (path for path in ROOT.rglob("tests/**/test_*.py") if ".venv" not in path.parts)
    files = {str(path.relative_to(ROOT)) for path in tests if any(f"_{kind}" in path.stem for kind in KINDS)}
    return sorted(files | {test for test in TESTS.values() if test.partition("::")[0] not in files})


def run(*, whole: bool) -> Section:
    """Run them; `whole`: also those that take minutes."""
    with tempfile.TemporaryDirectory(prefix="slipway-inputs-") as made:
        report = Path(made, "report.xml")
        command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "--dist", "loadfile"]
        command += [f"--junitxml={report}", "--hypothesis-show-statistics", *(["--long"] if whole else [])]
        done = subprocess.run(
            [*command, *chosen()], cwd=ROOT, capture_output=True, text=True, timeout=RUN_S, check=False
        )
        if not report.exists():
            return Section(ran="The tests did not run.", faults=0, survived=0, lost=[done.stdout[-500:]])
        return told(report.read_text(), done.stdout)


def told(junit: str, output: str) -> Section:
    """What a run of pytest says: a test is an input, or as many as hypothesis has made for it."""
    tests, failed = Counter[str](), Counter[str]()
    lost = []
    for case in ET.fromstring(junit).iter("testcase"):  # noqa: S314 - pytest's own
        name = case.attrib["classname"].rpartition(".")[2]
        if case.find("skipped") is not None:
            continue
        tests[name] += 1
        if case.find("failure") is not None or case.find("error") is not None:
            failed[name] += 1
            lost.append(f"{name}: {case.attrib['name']}")
    made = Counter[str]()
    place = ""
    for line in output.splitlines():
        if "::" in line:
            place = Path(line.partition("::")[0]).stem
        elif match := _EXAMPLES.search(line):
            made[place] += int(match[1]) + int(match[2])
    rows = [
        [name, str(number), str(made[name] or ""), str(failed[name] or "")]
        for name, number in sorted(tests.items())
    ]
    count = tests.total() + made.total()
    return Section(
        ran=f"{tests.total()} tests, and {made.total()} inputs that hypothesis made for some of them.",
        faults=count,
        survived=count - len(lost),
        lost=lost,
        tables=[Table(["Tests", "number", "made by hypothesis", "failed"], rows)],
    )
