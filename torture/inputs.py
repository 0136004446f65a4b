"""Bad inputs: the tests that send what is malformed, oversized or hostile, run and counted."""

import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Container
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
    """Run them; what fails beside others runs once more alone, as in `./dev test`.

    Args:
        whole: also those that take minutes.
    """
    with tempfile.TemporaryDirectory(prefix="slipway-inputs-") as made:
        cache = f"cache_dir={made}/cache"
        words = ["-o", cache, "--hypothesis-show-statistics", *(["--long"] if whole else []), *chosen()]
        junit, output = _pytest(Path(made, "all.xml"), "-n", "2", "--dist", "loadfile", *words)
        if not junit:
            return Section(ran="The tests did not run.", faults=0, survived=0, lost=[output[-500:]])
        if not told(junit, output).lost:
            return told(junit, output)
        alone, said = _pytest(Path(made, "alone.xml"), "-n", "0", "--lf", *words)
        return told(junit, output, told(alone, said).lost) if alone else told(junit, output)


def _pytest(report: Path, *words: str) -> tuple[str, str]:
    """Its report, none when there is none, and its output."""
    command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={report}", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=RUN_S, check=False)
    return report.read_text() if report.exists() else "", done.stdout


def told(junit: str, output: str, again: Container[str] | None = None) -> Section:
    """What a run of pytest says: a test is an input, or as many as hypothesis has made for it.

    Args:
        junit: its report.
        output: with the statistics of hypothesis.
        again: what was lost when that which had failed ran once more; nothing else counts then.
    """
    tests, failed = Counter[str](), Counter[str]()
    lost = []
    for case in ET.fromstring(junit).iter("testcase"):  # noqa: S314 - pytest's own
        name = case.attrib["classname"].rpartition(".")[2]
        if case.find("skipped") is not None:
            continue
        tests[name] += 1
        told_as = f"{name}: {case.attrib['name']}"
        broke = case.find("failure") is not None or case.find("error") is not None
        if broke and (again is None or told_as in again):
            failed[name] += 1
            lost.append(told_as)
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
