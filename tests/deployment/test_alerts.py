"""The alert rules by Prometheus' own tool: each is silent while all is well, and fires when it should."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.deployment.manifests import MAP, ROOT

RULES = MAP / "monitoring" / "alerts.yaml"
CASES = Path(__file__).with_name("alerts.yaml")


def promtool(*words: str | Path) -> subprocess.CompletedProcess[str]:
    fetched = ROOT / ".cache" / "promtool"
    program = fetched if fetched.exists() else shutil.which("promtool")
    if program is None:
        pytest.fail("promtool is missing: scripts/install-promtool")
    return subprocess.run([program, *words], capture_output=True, text=True, check=False)


def judged(folder: Path, rules: str) -> subprocess.CompletedProcess[str]:
    (folder / "alerts.yaml").write_text(rules, encoding="utf-8")
    shutil.copy(CASES, folder / "cases.yaml")
    return promtool("test", "rules", folder / "cases.yaml")


def test_the_rules_are_ones_that_prometheus_takes() -> None:
    done = promtool("check", "rules", RULES)
    assert done.returncode == 0, done.stderr


def test_each_alert_fires_when_it_should_and_not_before(tmp_path: Path) -> None:
    done = judged(tmp_path, RULES.read_text(encoding="utf-8"))
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_has_a_case_in_which_it_fires() -> None:
    [group] = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    names = [rule["alert"] for rule in group["rules"]]
    cases = yaml.safe_load(CASES.read_text(encoding="utf-8"))["tests"]
    fired = {case["name"].partition(",")[0] for case in cases if "exp_samples" in str(case)}
    assert fired == set(names)
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("right", "wrong"), [("> 7200", "> 7300"), ("for: 15m", "for: 14m"), ("< 20e9", "< 18e9")]
)
def test_a_rule_that_is_changed_is_noticed(tmp_path: Path, right: str, wrong: str) -> None:
    rules = RULES.read_text(encoding="utf-8")
    assert right in rules
    assert judged(tmp_path, rules.replace(right, wrong, 1)).returncode != 0
