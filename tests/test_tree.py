"""Rules of the tree that no linter knows: budgets of size, names of modules, who may spell a subject."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted(
    path
    for top in ("libs", "services", "cli", "node", "devtools")
    for path in (ROOT / top).rglob("src/**/*.py")
    if "_pb2" not in path.name
)
SERVICES = ("imaged", "snapshotd", "runtimed", "shimd", "crid", "opsd")
MAX_MODULE_LINES = 500
MAX_FUNCTION_LINES = 60


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_module_stays_small_and_says_what_it_is(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= MAX_MODULE_LINES
    tree = ast.parse(text)
    assert ast.get_docstring(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            assert lines <= MAX_FUNCTION_LINES, f"{node.name} has {lines} lines"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_docstring_stands_below_what_it_is_about(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(body := getattr(node, "body", None), list):
            texts = [
                isinstance(each, ast.Expr)
                and isinstance(each.value, ast.Constant)
                and isinstance(each.value.value, str)
                for each in body
            ]
            doubled = [
                each.lineno for each, one, two in zip(body[1:], texts, texts[1:], strict=False) if one and two
            ]
            assert not doubled, f"two strings in a row at line {doubled[0]}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_module_is_named_for_nothing(path: Path) -> None:
    assert path.stem not in {"utils", "helpers", "misc", "types", "base", "common"}


@pytest.mark.parametrize("service", SERVICES)
def test_each_service_has_the_same_skeleton(service: str) -> None:
    source = ROOT / "services" / service / "src" / service
    assert (source / "main.py").exists()
    assert (source / "settings.py").exists()
    assert (source / "servicer.py").exists() or (source / "servicer").is_dir()
    assert (ROOT / "services" / service / "README.md").exists()


def test_only_one_module_spells_a_subject() -> None:
    spelled = [
        p for p in MODULES if '"slipway.v1' in p.read_text() and p.name not in {"subjects.py", "eventdoc.py"}
    ]
    assert not spelled


def test_test_files_have_names_of_their_own() -> None:
    names = [path.name for path in ROOT.rglob("test_*.py") if ".venv" not in path.parts]
    assert len(names) == len(set(names))
