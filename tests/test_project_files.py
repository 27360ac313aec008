"""What the project says about itself is so."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest

from app.domain.outcome import Status
from app.errors import ExitCode
from tests.test_architecture import HEAVY

ROOT = Path(__file__).resolve().parents[1]
PIN = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)(?:\[[a-z,]+\])?==(?P<version>\S+)", re.MULTILINE)


def readme() -> str:
    return (ROOT / "README.md").read_text(encoding="utf-8")


def pins(name: str) -> dict[str, str]:
    text = (ROOT / name).read_text(encoding="utf-8")
    return {found["name"].lower().replace("_", "-"): found["version"] for found in PIN.finditer(text)}


@pytest.mark.parametrize("requirements", ["requirements.txt", "requirements-dev.txt"])
def test_what_is_asked_for_is_what_was_tested(requirements: str) -> None:
    tested = pins("constraints.txt")
    asked = pins(requirements)
    assert asked
    assert {name: tested.get(name) for name in asked} == asked


def test_each_runtime_dependency_has_its_reason_and_licence() -> None:
    text = (ROOT / "docs" / "reference" / "dependencies.md").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    explained = {row[0].lower() for row in rows if len(row) == 4 and all(row)}
    assert pins("requirements.txt").keys() - explained == set()


def test_each_file_of_the_program_that_is_no_python_is_packaged() -> None:
    packaged = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    found = {
        path
        for package, patterns in packaged.items()
        for pattern in patterns
        for path in ROOT.joinpath(*package.split(".")).glob(pattern)
    }
    files = {path for path in (ROOT / "app").rglob("*") if path.is_file()}
    others = {path for path in files if path.suffix not in (".py", ".pyc")}
    assert others
    assert others == found


def test_each_folder_of_the_program_is_a_package_and_so_packaged() -> None:
    folders = {path.parent for path in (ROOT / "app").rglob("*.py")}
    assert ROOT / "app" / "node" / "records" / "migrations" / "versions" in folders
    assert [folder for folder in folders if not (folder / "__init__.py").is_file()] == []


def project_files(*suffixes: str) -> Iterator[Path]:
    """The project's own files; what tools install among the tests is left out."""
    yield from (path for path in ROOT.glob("*") if path.suffix in suffixes)
    for folder in ("app", "benchmarks", "docs", "MAP", "operators", "scripts", "tests"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in suffixes and "node_modules" not in path.parts and path.is_file():
                yield path


def documents() -> list[Path]:
    """Every page that a person reads."""
    return list(project_files(".md"))


def links(document: Path) -> Iterator[tuple[Path, str]]:
    """Where the relative links of a page lead: file, and the heading in it (empty for none)."""
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(document)):
        if "://" not in target:
            path, _, heading = target.partition("#")
            yield (document.parent / path).resolve() if path else document, heading


def prose(document: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def anchors(document: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(document), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_between_documents_lead_somewhere() -> None:
    found = [(document, *link) for document in documents() for link in links(document)]
    assert found
    broken = [
        f"{document.relative_to(ROOT)}: {target.name}#{heading}"
        for document, target, heading in found
        if not target.exists() or (heading and heading not in anchors(target))
    ]
    assert broken == []


def test_the_readme_names_every_exit_code() -> None:
    line = next(line for line in readme().splitlines() if line.startswith("Exit codes: "))
    assert {int(code) for code in re.findall(r"\d+", line)} == set(ExitCode)


def test_every_end_of_a_study_has_its_exit_code() -> None:
    assert {status.name: ExitCode[status.name].value for status in Status} == {
        "DONE": 0,
        "REJECTED": 3,
        "RETRY": 4,
        "FAILED": 1,
    }


def test_the_help_of_the_command_line_loads_nothing_heavy() -> None:
    program = f"import sys, app.cli.main; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_every_page_is_reached_from_the_index() -> None:
    index = ROOT / "docs" / "README.md"
    reached, ahead = {index}, [index]
    while ahead:
        for target, _ in links(ahead.pop()):
            if target.suffix == ".md" and target.is_relative_to(ROOT / "docs") and target not in reached:
                reached.add(target)
                ahead.append(target)
    pages = {page for page in documents() if page.is_relative_to(ROOT / "docs")}
    assert sorted(str(page.relative_to(ROOT)) for page in pages - reached) == []


def test_pages_that_the_program_and_its_files_name_are_there() -> None:
    named = {
        (str(path.relative_to(ROOT)), name)
        for path in project_files(".py", ".yaml", ".txt", ".toml", ".service", ".lua")
        for name in re.findall(r"docs/[\w/-]+\.md", path.read_text(encoding="utf-8"))
    }
    assert named
    assert sorted(pair for pair in named if not (ROOT / pair[1]).exists()) == []


def test_files_that_the_pages_name_are_there() -> None:
    named = {
        (page.name, path)
        for page in documents()
        for path in re.findall(r"`((?:app|operators|tests|benchmarks|scripts|MAP)/[\w./-]*)`", prose(page))
    }
    built = "MAP/dist"
    assert named
    missing = [pair for pair in named if not (ROOT / pair[1]).exists() and not pair[1].startswith(built)]
    assert sorted(missing) == []


def test_tests_that_the_page_on_security_names_are_there() -> None:
    page = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    named = re.findall(r"`([\w/]+\.py)::(\w*)`", page)
    assert len(named) == page.count("::") > 0
    tests = {path: (ROOT / "tests" / path).read_text(encoding="utf-8") for path, _ in named}
    assert [f"{path}::{name}" for path, name in named if f"def {name}(" not in tests[path]] == []


def audit() -> ModuleType:
    """The program behind `make audit`."""
    loader = SourceFileLoader("audit", str(ROOT / "scripts" / "audit"))
    spec = importlib.util.spec_from_loader("audit", loader)
    assert spec is not None
    program = importlib.util.module_from_spec(spec)
    loader.exec_module(program)
    return program


def test_a_finding_of_bandit_counts_without_ruff_s_exception_at_its_line(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text("run(  # noqa: S603  our own\n    command)\nrun(other)\n")
    finding = {"filename": "one.py", "issue_text": "check it", "test_id": "B603", "line_number": 1}
    explained = finding | {"line_range": [1, 2]}
    other = explained | {"test_id": "B602"}
    bare = finding | {"line_number": 3, "line_range": [3]}
    found = list(audit().unexplained([explained, other, bare], tmp_path))
    assert found == ["one.py:1: B602 check it", "one.py:3: B603 check it"]


def test_packages_that_nobody_could_ask_about_are_no_pass() -> None:
    judged = audit().judged
    clean = {"name": "a", "version": "1", "vulns": []}
    silent = {"name": "b", "skip_reason": "not found on PyPI"}
    faulty = {"name": "c", "version": "3", "vulns": [{"id": "PYSEC-1", "fix_versions": ["4"]}]}
    assert judged({"dependencies": [clean]}) == (0, "pip-audit: 1 packages, no advisory")
    assert judged(None)[0] == judged({"dependencies": [clean, silent]})[0] == 4
    code, words = judged({"dependencies": [silent, faulty]})
    assert code == 1
    assert words.splitlines() == [
        "pip-audit: c 3: PYSEC-1, mended in 4",
        "pip-audit: PyPI gives no advisories from here about b",
    ]


def test_the_tools_of_the_audit_are_pinned() -> None:
    lines = (ROOT / "requirements-audit.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not line.startswith("#") and not PIN.match(line)] == []
    assert {"bandit", "pip-audit"} <= pins("requirements-audit.txt").keys()


GUIDES = sorted((ROOT / "docs" / "how-to").glob("add-*.md"))
"""Each shows a real change of the program."""


def shown_change(page: Path) -> str:
    """The change that a guide shows."""
    [change] = re.findall(r"^```diff\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return str(change)


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.stem)
def test_the_change_that_a_guide_shows_applies_to_the_files_as_they_are(page: Path) -> None:
    command = ["git", "apply", "--check", "-"]
    change = shown_change(page)
    done = subprocess.run(command, cwd=ROOT, input=change, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"make the change again, and paste `git diff -U1`: {done.stderr}"


def test_the_readme_names_every_command() -> None:
    from app.cli.main import app

    found = [(command.name, command.callback) for command in app.registered_commands]
    commands = [name or callback.__name__ for name, callback in found if callback is not None]
    groups = [str(group.name) for group in app.registered_groups]
    assert commands
    unnamed = [name for name in [*commands, *groups] if not re.search(rf"`(psma-node )?{name}\b", readme())]
    assert unnamed == []


def test_an_instance_is_followed_through_files_that_are_there_and_few() -> None:
    text = (ROOT / "docs" / "explanation" / "following-an-instance.md").read_text(encoding="utf-8")
    steps = re.findall(r"^(\d+)\. `([^`]+)` ", text, re.MULTILINE)
    assert [int(number) for number, _ in steps] == list(range(1, len(steps) + 1))
    assert [path for _, path in steps if not (ROOT / path).is_file()] == []
    assert len({path for _, path in steps}) == len(steps) <= 45


def test_the_architecture_names_rooms_and_files_that_are_there() -> None:
    text = (ROOT / "docs" / "explanation" / "architecture.md").read_text(encoding="utf-8")
    found = [*(ROOT / "app").rglob("*"), *(ROOT / "tests").glob("*.py")]
    there = {f"/{path.relative_to(ROOT).as_posix()}" for path in found}
    named = re.findall(r"`([\w/]+(?:\.py|/))`", text)
    gone = [name for name in named if not any(path.endswith(f"/{name.rstrip('/')}") for path in there)]
    assert len(named) > 40
    assert gone == []


def test_the_command_is_the_one_the_documents_name() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"psma-node": "app.cli:main"}


@pytest.mark.parametrize("base", ["../x", "book worm"])
def test_fresh_makes_no_folder_for_what_is_no_release(base: str, tmp_path: Path) -> None:
    command = [str(ROOT / "scripts" / "fresh"), base]
    cache = {**os.environ, "PSMA_NODE_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(command, env=cache, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"found '{base}'" in done.stderr
    assert not (tmp_path / "cache").exists()
