"""docs/reference/refusals.md, made from the reasons of the code and from what provokes them in tests.

``python -m tests.defects.refusals_page > docs/reference/refusals.md``
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from app.domain.refusal import RefusalCode
from tests.defects.histories import HISTORIES
from tests.defects.priors import PRIORS
from tests.defects.table import TABLE

ROOT = Path(__file__).resolve().parents[2]

HEAD = """# Why something is refused

Every reason that `psma-node` gives, in outcome.json, in the audit log, in the report, and in
`psma-node inspect`; what it means, what a person can do unless the refusal itself knows something nearer, the
attributes it names, and the tests that provoke it.
Made by `python -m tests.defects.refusals_page > docs/reference/refusals.md`; do not edit.

A defect is done to a small PET/CT or SPECT/CT by `tests/defects`: {total} of them. {refused} are refused with
the reason given here; {harmless} give the numbers of the undamaged study, voxel by voxel; {warned} may give
others, as headers alone can't tell, and are warned of in outcome, report and page. That is what these tests
show: of a defect that is not among them they say nothing.

Beside them stand {histories} histories of a patient
(`tests/defects/histories.py`: {stopped} stop the comparison, {stated} are stated with it, the others change
nothing), and {priors} earlier PETs that are refused as priors (`tests/defects/priors.py`).

"""


def refusals_page() -> str:
    """The whole page, Markdown."""
    refused = sum(defect.code is not None for _, defect in TABLE)
    warned = [(kind, defect) for kind, defect in TABLE if defect.warned]
    harmless = [(kind, defect) for kind, defect in TABLE if defect.code is None and not defect.warned]
    counts = {"refused": refused, "harmless": len(harmless), "warned": len(warned)}
    counts |= {"histories": len(HISTORIES), "priors": len(PRIORS)}
    counts |= {"stopped": sum(bool(one.stopped) for one in HISTORIES)}
    counts |= {"stated": sum(bool(one.told) for one in HISTORIES)}
    parts = [HEAD.format(total=len(TABLE), **counts)]
    parts.append("| reason | meaning | what to do | attribute | provoked by |\n|---|---|---|---|---|\n")
    tests, stated = provoking_tests(), stated_attributes()
    for code in RefusalCode:
        rows = [(kind, defect) for kind, defect in TABLE if code in (defect.code, defect.beside)]
        names = {defect.attribute for _, defect in rows if defect.attribute} or stated[code]
        attributes = ", ".join(f"`{name}`" for name in sorted(names)) or "–"
        provoked = [f"{kind}: {defect.name}" for kind, defect in rows] or sorted(tests[code])
        told = f"| `{code}` | {code.meaning} | {code.advice or '–'} | {attributes}"
        parts.append(f"{told} | {'; '.join(provoked)} |\n")
    parts.append("\n## Without effect\n\nThese change no number:\n\n")
    parts += [f"- {kind}: {defect.name}\n" for kind, defect in harmless]
    parts.append("\n## With a warning\n\nThese are read; the warning says so:\n\n")
    parts += [f"- {kind}: {defect.name} (“… {defect.warned} …”)\n" for kind, defect in warned]
    return "".join(parts)


def provoking_tests() -> dict[RefusalCode, set[str]]:
    """Tests that name a reason in what they assert, as ``file::test``."""
    found: dict[RefusalCode, set[str]] = defaultdict(set)
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                for code in _codes(node):
                    found[code].add(f"`{path.relative_to(ROOT).as_posix()}::{node.name}`")
    return found


def stated_attributes() -> dict[RefusalCode, set[str]]:
    """The second argument of each ``Reason(RefusalCode.X, "Attribute", …)`` in the program."""
    found: dict[RefusalCode, set[str]] = defaultdict(set)
    for path in (ROOT / "app").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and len(node.args) > 1:
                codes, attribute = list(_codes(node.args[0])), node.args[1]
                if codes and isinstance(attribute, ast.Constant) and attribute.value:
                    found[codes[0]].add(str(attribute.value))
    return found


def raised_codes() -> set[RefusalCode]:
    """Reasons that the program names anywhere but in their definition."""
    found: set[RefusalCode] = set()
    for path in (ROOT / "app").rglob("*.py"):
        if path.name != "refusal.py":
            found |= set(_codes(ast.parse(path.read_text(encoding="utf-8"))))
    return found


def _codes(tree: ast.AST) -> Iterator[RefusalCode]:
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "RefusalCode"
            and node.attr in RefusalCode.__members__
        ):
            yield RefusalCode[node.attr]


if __name__ == "__main__":
    print(refusals_page(), end="")  # noqa: T201  a page to be redirected
