"""The house's one direction, proved from the imports themselves (docs/explanation/architecture.md)."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

GROUND = {"app.domain", "app.errors", "app.files"}
DATA = GROUND | {"app.imaging", "app.inference", "app.dicom"}

MAY_IMPORT = {
    # part: the parts of this program it may import, beside itself
    "app.domain": set(),
    "app.errors": {"app.domain"},
    "app.files": {"app.domain", "app.errors"},
    "app.imaging": {"app.domain", "app.errors"},
    "app.inference": GROUND | {"app.imaging"},
    "app.dicom": GROUND | {"app.imaging"},
    "app.node": GROUND | {"app.imaging", "app.dicom"},
    "app.phantom": {"app.domain", "app.imaging", "app.dicom"},
    "app.cohort": GROUND | {"app.imaging", "app.dicom", "app.inference", "app.phantom"},
    "app.validation": GROUND | {"app.imaging", "app.inference", "app.dicom", "app.cohort"},
    "app.training": GROUND | {"app.imaging", "app.inference", "app.cohort", "app.validation"},
    "app.demo": {"app.domain", "app.errors", "app.imaging", "app.dicom", "app.node", "app.phantom"},
    "app.settings": DATA - {"app.files"} | {"app.node"},
    "app.reference": {"app.domain", "app.dicom", "app.node", "app.settings"},
    "operators": DATA - {"app.files"},
    "app.chain": DATA | {"app.settings", "operators", "app.cohort", "app.validation"},
    "app.cli": DATA - {"app.imaging"}
    | {"app.node", "app.settings", "app.chain", "app.reference", "app.phantom", "app.cohort"}
    | {"app.validation", "app.training", "app.demo"},
    "app.__main__": {"app.cli"},
}
"""One line a part, lowest first. A new part, or a new arrow, is a decision: it is written here."""

FLOORS = {
    "app.domain": (
        "clocks decision ranges refusal units",
        "study volume",
        "radionuclides scores",
        "measures",
        "stack quantities findings",
        "codes selection",
        "analysis",
        "dose outcome",
    ),
    "app.dicom": ("contours header_values uids", "dicom_file", "results", "outlines reading"),
    "app.dicom.results": (
        "encoding policy",
        "context",
        "report seg source_text",
        "page rtstruct read_back",
        "writer withdrawal",
    ),
    "app.imaging": (
        "earlier_results joined_parts labels mip morphology nifti resampling slices",
        "registration shared_region",
        "anatomy",
        "quantification",
    ),
    "app.inference": ("policy devices", "models", "running", "importing"),
    "app.node": (
        "peers rounds stop_signals tls_words",
        "policy tls",
        "records",
        "receive process deliver",
        "upkeep watch queue",
        "planner",
        "service",
    ),
    "app.phantom": ("centres", "anatomy", "acquisition", "patient", "dicom"),
    "app.validation": ("statistics scores study_table", "groups", "cards report"),
    "app.cohort": ("manifest pool", "checks truth", "simulation source", "identity patient", "build"),
    "app.training": (
        "planning priors steps trainer",
        "experiment_settings",
        "workplace",
        "dataset experiment",
        "model_training",
        "export",
        "conclusion worker",
    ),
    "app.cli": ("demo options reload", "cohort evaluate experiment folder models operate studies", "main"),
}
"""Within a part: its rooms and files, lowest first. Each imports itself, and what is on floors below."""

LARGE = 10
"""Parts with as many files have floors; ``operators`` are beside each other, each a stage."""

DOMAIN_MAY_USE = {"numpy"}
"""What app.domain may import beside the standard library."""

HEAVY = ("torch", "monai", "holoscan", "nnunetv2", "pydicom", "SimpleITK", "matplotlib", "dbos")
"""What the domain must never load: it is imported by everything."""


def modules(root: Path) -> dict[str, Path]:
    """Every module of the program by its dotted name."""
    found = {}
    for path in [*(root / "app").rglob("*.py"), *(root / "operators").rglob("*.py")]:
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def part_of(module: str) -> str:
    """The part a module belongs to: ``app.dicom.results.seg`` → ``app.dicom``; all operators are one."""
    names = module.split(".")
    return names[0] if names[0] == "operators" else ".".join(names[:2])


def imports(path: Path, module: str) -> Iterator[tuple[str, int]]:
    """Each module that a file imports, anywhere in it (functions too), with its line."""
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            # `from app import dicom` names a part, or a room, only in its alias
            names = {alias.name for alias in node.names if not alias.name.startswith("__")}
            in_folder = source == "app" or source in FLOORS
            found = {f"{source}.{name}" for name in names} if in_folder else {source}
            yield from ((name, node.lineno) for name in sorted(found))


def wrong_imports(root: Path) -> list[str]:
    """Every import that goes against the direction, as ``file:line: from → to``."""
    wrong = []
    for module, path in sorted(modules(root).items()):
        if module == "app":
            continue  # holds nothing
        for imported, line in imports(path, module):
            if refused(part_of(module), imported):
                wrong.append(f"{path.relative_to(root)}:{line}: {part_of(module)} → {imported}")
            wrong += [
                f"{path.relative_to(root)}:{line}: {here} → {there}"
                for here, there in climbs(module, imported)
            ]
    return wrong


def climbs(module: str, imported: str) -> Iterator[tuple[str, str]]:
    """Each pair of places within one part of which the first imports one that is not on a floor below."""
    for part, floors in FLOORS.items():
        here, there = (place_in(part, name) for name in (module, imported))
        if not here or not there or here == there:
            continue
        floor_of = {name: number for number, floor in enumerate(floors) for name in floor.split()}
        if floor_of.get(there, len(floors)) >= floor_of.get(here, -1):
            yield f"{part}.{here}", f"{part}.{there}"


def place_in(part: str, module: str) -> str:
    """The room or file of a part that a module stands in; empty where it is elsewhere, or the part itself."""
    return module.removeprefix(part + ".").partition(".")[0] if module.startswith(part + ".") else ""


def refused(here: str, imported: str) -> bool:
    """Whether a part may not import a module."""
    top = imported.partition(".")[0]
    if top in {"app", "operators"}:
        there = part_of(imported)
        return there not in {here, "app", *MAY_IMPORT.get(here, set())}
    if here == "app.domain":
        return top not in DOMAIN_MAY_USE and top not in sys.stdlib_module_names
    return top == "tests"


def cycle(edges: dict[str, set[str]]) -> list[str]:
    """A cycle among the parts, or nothing."""
    done: set[str] = set()

    def visit(part: str, trail: list[str]) -> list[str]:
        if part in trail:
            return [*trail[trail.index(part) :], part]
        if part in done:
            return []
        for following in sorted(edges.get(part, ())):
            if found := visit(following, [*trail, part]):
                return found
        done.add(part)
        return []

    return next((found for part in sorted(edges) if (found := visit(part, []))), [])


def write(root: Path, files: Iterable[tuple[str, str]]) -> Path:
    for name, text in files:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_every_import_goes_in_the_one_direction() -> None:
    assert wrong_imports(ROOT) == []


def test_every_part_of_the_program_has_its_place_in_the_order() -> None:
    parts = {part_of(module) for module in modules(ROOT)} - {"app"}
    assert parts - MAY_IMPORT.keys() == set()


def test_no_arrow_is_allowed_that_nobody_uses() -> None:
    used = {
        (part_of(module), part_of(imported))
        for module, path in modules(ROOT).items()
        for imported, _ in imports(path, module)
        if imported.partition(".")[0] in {"app", "operators"}
    }
    allowed = {(part, other) for part, others in MAY_IMPORT.items() for other in others}
    assert sorted(allowed - used) == []


def test_every_large_part_has_floors() -> None:
    sizes = Counter(part_of(module) for module in modules(ROOT))
    large = {part for part, size in sizes.items() if size >= LARGE} - {"operators"}
    assert large - FLOORS.keys() == set()


def test_every_room_of_a_part_with_floors_has_its_own() -> None:
    without = [
        f"{part}.{place}"
        for part, floors in FLOORS.items()
        for place in sorted({place_in(part, module) for module in modules(ROOT)} - {""})
        if place not in " ".join(floors).split()
    ]
    assert without == []


def test_no_floor_names_what_is_gone() -> None:
    there = {f"{part}.{place_in(part, module)}" for part in FLOORS for module in modules(ROOT)}
    assert [f"{part}.{name}" for part, floors in FLOORS.items() for name in " ".join(floors).split()
            if f"{part}.{name}" not in there] == []  # fmt: skip


def test_the_order_itself_has_no_cycle() -> None:
    assert cycle(MAY_IMPORT) == []


def test_a_cycle_would_be_found() -> None:
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": set()}) == ["a", "b", "c", "a"]


@pytest.mark.parametrize(
    ("name", "text", "arrow"),
    [
        ("app/dicom/bad.py", "from app.node.receive.scp import x\n", "app.dicom → app.node.receive.scp"),
        ("app/dicom/bad.py", "def late():\n    import app.cli\n", "app.dicom → app.cli"),
        ("app/dicom/bad.py", "from ..node import scp\n", "app.dicom → app.node.scp"),
        ("app/dicom/__init__.py", "from ..node import scp\n", "app.dicom → app.node.scp"),
        ("app/imaging/bad.py", "from app import node\n", "app.imaging → app.node"),
        ("app/domain/bad.py", "import pydicom\n", "app.domain → pydicom"),
        ("app/domain/bad.py", "from app.errors import x\n", "app.domain → app.errors"),
        ("app/node/bad.py", "from operators.load import x\n", "app.node → operators.load"),
        ("operators/bad.py", "import app.chain.application\n", "operators → app.chain.application"),
        ("app/cli/bad.py", "from tests.conftest import x\n", "app.cli → tests.conftest"),
        ("app/node/records/bad.py", "import app.node.receive.scp\n", "app.node.records → app.node.receive"),
        ("app/node/deliver/bad.py", "from app.node import queue\n", "app.node.deliver → app.node.queue"),
        ("app/node/receive/bad.py", "import app.node.process.x\n", "app.node.receive → app.node.process"),
        ("app/domain/volume.py", "from app.domain.study import x\n", "app.domain.volume → app.domain.study"),
        ("app/domain/newcomer/x.py", "import app.domain.study\n", "app.domain.newcomer → app.domain.study"),
        ("app/newcomer/bad.py", "from app.domain.volume import x\n", "app.newcomer → app.domain.volume"),
    ],
)
def test_an_import_in_the_wrong_direction_would_be_found(
    tmp_path: Path, name: str, text: str, arrow: str
) -> None:
    write(tmp_path, [(name, text), ("operators/__init__.py", "")])
    assert [found.split(": ")[1] for found in wrong_imports(tmp_path)] == [arrow]


def test_imports_in_the_right_direction_are_left_alone(tmp_path: Path) -> None:
    good = "from app import __version__\nimport json\nimport numpy as np\nfrom .good import x\n"
    sideways = "from .study import Study\nfrom app.domain import refusal\n"
    write(tmp_path, [("app/domain/stack/good.py", good), ("app/imaging/mip.py", "import SimpleITK\n")])
    write(tmp_path, [("app/domain/analysis.py", sideways)])
    assert wrong_imports(tmp_path) == []


def test_the_domain_loads_nothing_heavy_and_reads_no_environment() -> None:
    names = sorted(module for module in modules(ROOT) if part_of(module) == "app.domain")
    program = f"""
import os, socket, sys

def never(*_args, **_named):
    raise AssertionError("read while being imported")

import numpy  # its own business
environment = type(os.environ)
environment.__getitem__ = environment.get = socket.socket.connect = never
for name in {names!r}:
    __import__(name)
print(*[name for name in {HEAVY!r} if name in sys.modules])
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")
