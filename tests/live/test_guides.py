"""The changes that the guides show can be made together, and pass the tests that they bring."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.test_project_files import GUIDES, ROOT, shown_change

DEFECTS = "tests/defects/test_defects.py"


def test_the_changes_of_all_guides_pass_their_tests(tmp_path: Path) -> None:
    for name in ("app", "operators", "tests", "docs", "models"):
        ignored = shutil.ignore_patterns("node_modules", "__pycache__", "images")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    for name in ("pyproject.toml", "app.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    changes = [shown_change(page) for page in GUIDES]
    for change in changes:
        subprocess.run(["git", "apply", "-"], cwd=tmp_path, input=change, text=True, check=True)
    files = sorted(set(re.findall(r"^\+\+\+ b/(\S+/test_\w+\.py)$", "".join(changes), re.MULTILINE)))
    assert files
    environment = os.environ | {"GIT_CEILING_DIRECTORIES": str(tmp_path.parent)}
    for chosen in (files, [DEFECTS, "-k", "gated"]):
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *chosen]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout[-4000:]
