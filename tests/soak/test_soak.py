"""A short soak, and that the long one (``make soak``) can fail: by what grows, is lost, or is not told."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.soak.__main__ import long_scale
from tests.soak.disturbances import disturbances
from tests.soak.node import FAILS, Retention
from tests.soak.report import report, verdict
from tests.soak.resources import LIMITS, MIN_SAMPLES, Sample, _below, _files_mb, growth, sample, what_grows
from tests.soak.schedule import LAST_LIFE, Scale, happenings
from tests.soak.senders import Way, sendings
from tests.soak.world import soak_world

SHORT = Scale(
    studies=16,
    senders=8,
    seed=1,
    lasts_s=12.0,
    restarts=2,
    rounds=1,
    longest_s=0.6,
    # none of those that are done: a late image could come after its study's others were removed
    retention=Retention({"rejected_days": 1e-5}, quiet_s=1.0),
    patience_s=60.0,
    sample_s=0.5,
    scrape_s=1.0,
)


def test_everything_is_accounted_for_after_a_short_soak(tmp_path: Path) -> None:
    with soak_world(tmp_path, SHORT) as here:
        found = verdict(here, here.run())
        assert found == []
        assert set(here.ends().values()) == {"done", "rejected"}
        assert [one.signal for one, _ in here.done if one.signal] == [signal.SIGKILL, signal.SIGTERM]
        assert here.node.exit_codes == [-signal.SIGKILL, 0, 0]
        assert here.failed() == {one.study for one in here.plan if one.trouble == FAILS} != set()
        assert here.pacs.lost > 0
        assert here.rotated == 1
        assert all(here.samples[life] for life in (1, 2, 3))
        page = report(here, found, "python -m tests.soak", "0123abc")
        assert "**All is well.**" in page
        assert f"| **all** | {SHORT.studies} |" in page
        # and it would have been noticed
        here.hook.bodies.clear()
        assert {line.split(": ")[1] for line in here._of_alarms()} == {"failed, and nobody was told"}
        here.pacs.kept.popitem()
        next(tmp_path.joinpath("data", "inbox", "studies").rglob("*.dcm")).unlink()
        wrong = here.account()
        assert [line for line in wrong if line.endswith("acknowledged, no file")]
        assert [line for line in wrong if line.endswith("did not reach the PACS")]
        assert "**Something is wrong.**" in report(here, wrong, "python -m tests.soak", "0123abc")


def life(**grows: Callable[[int], float]) -> list[Sample]:
    """400 samples with some noise, and now and then the peak of a fault."""
    choice = random.Random(1)  # noqa: S311  repeatable, not secret
    level = {"memory_mb": 180.0, "descriptors": 60, "threads": 30, "processes": 1}
    found = []
    for number in range(400):
        peak = 40 if choice.random() < 0.05 else 0
        now = {name: value + grows.get(name, lambda _: 0.0)(number) for name, value in level.items()}
        now["memory_mb"] += choice.gauss(0.0, 1.0) + peak
        now["descriptors"] += choice.randint(-3, 3) + peak
        now["threads"] += choice.randint(-2, 2) + peak
        found.append(Sample(at_s=number, ledgers_mb=1.0, engine_mb=1.0, inbox_mb=1.0, **now))
    return found


def warming_up(number: int) -> float:
    return 60.0 * (1.0 - 0.97**number)


def in_waves(number: int) -> float:
    """As caches that fill and are emptied."""
    return 20.0 * (number % 40) / 40.0


@pytest.mark.parametrize("course", [lambda _: 0.0, warming_up, in_waves])
def test_what_is_flat_is_called_flat(course: Callable[[int], float]) -> None:
    assert what_grows(life(memory_mb=course, descriptors=course, threads=course)) == []


LEAKS: dict[str, Callable[[int], float]] = {
    "memory_mb": lambda number: 0.06 * number,  # 0.1 MB a study at 250 studies in 400 samples
    "descriptors": lambda number: number // 20,
    "threads": lambda number: number // 30,
    "processes": lambda number: number // 100,
}


@pytest.mark.parametrize("name", LEAKS)
def test_a_leak_is_found(name: str) -> None:
    unit = next(limit.unit for limit in LIMITS if limit.name == name)
    [line] = what_grows(life(**{name: LEAKS[name]}))
    assert f"{unit} from the second to the last quarter" in line


def test_a_short_life_is_not_judged() -> None:
    assert growth(list(range(MIN_SAMPLES - 1))) is None
    assert growth([float(number) for number in range(MIN_SAMPLES)]) == MIN_SAMPLES / 2
    assert what_grows(life(descriptors=lambda number: number)[: MIN_SAMPLES - 1]) == []


HOLDS_MUCH = """
import os, subprocess, sys, threading
opened = [open(os.devnull) for _ in range(20)]
ballast = bytearray(b"x") * 50_000_000
threading.Thread(target=sys.stdin.read, daemon=True).start()
child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
"""
SAYS_SO = """
print(flush=True)
threading.Event().wait()
"""


def _sample_of(program: str, data_dir: Path) -> Sample | None:
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        found = sample(process.pid, data_dir)
        process.kill()
    return found


def test_a_sample_counts_what_a_process_and_its_children_hold(tmp_path: Path) -> None:
    for name in ("node.sqlite", "node.sqlite-wal", "workflows.sqlite"):
        (tmp_path / name).write_bytes(bytes(500_000))
    little = _sample_of(f"import threading{SAYS_SO}", tmp_path)
    much = _sample_of(HOLDS_MUCH + SAYS_SO, tmp_path)
    assert little is not None
    assert much is not None
    assert (much.ledgers_mb, much.engine_mb, much.inbox_mb) == (1.0, 0.5, 0.0)
    assert (little.processes, much.processes) == (1, 2)
    assert (little.threads, much.threads) == (1, 3)
    assert much.descriptors >= little.descriptors + 20
    assert much.memory_mb > little.memory_mb + 45


def test_a_process_that_has_ended_gives_no_sample(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    assert sample(ended.pid, tmp_path) is None


def test_a_run_follows_from_its_seed() -> None:
    long = long_scale(500, 8, 1, minutes=30.0)
    for has_a_disk in (False, True):
        assert happenings(long, has_a_disk) == happenings(long, has_a_disk)
    found = happenings(long, has_a_disk=True)
    assert {one.disturbance for one in found} >= set(disturbances(has_a_disk=True))
    restarts = [one for one in found if one.signal is not None]
    assert len(restarts) == long.restarts
    assert max(one.at for one in restarts) < LAST_LIFE
    plan = sendings(500, 8, 1)
    assert plan == sendings(500, 8, 1)
    assert plan != sendings(500, 8, 2)
    assert {one.way for one in plan} == set(Way)
    assert {one.sender for one in plan} == set(range(8))
    assert len({one.study for one in plan}) == 500


def test_a_study_that_is_removed_amid_a_look_ends_no_watch(tmp_path: Path) -> None:
    for study in ("1.1", "1.2"):
        (tmp_path / study).mkdir()
        (tmp_path / study / "image").write_bytes(b"1")
    found = _below(tmp_path)
    there = next(found).parent
    shutil.rmtree(next(folder for folder in tmp_path.iterdir() if folder != there))
    assert list(found) == []
    assert _files_mb([there / "image", tmp_path / "gone"]) == 1e-6
